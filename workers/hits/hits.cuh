// hits: clusters -> positions with errors, in the module's frame and globally. The formula is the fast estimator of the CMS pixel
// local reconstruction; every operation is one IEEE float32 operation in the order written, unless it says double.
#pragma once
#include "clusters/clusters.cuh"

namespace hlt {

constexpr uint32_t FLAG_HIT_OVERFLOW = 1u << 8;

// Item: an event. First hit of each module, counted within the event; the numbers of clusters and hits. O(modules).
HLT_FN void number_hits(Team const& team, uint32_t event, Detector const& det, HitLimits const& limits, ModuleClusters const& modules,
                        Results const& results) {
  uint32_t at = 0;
  for (uint32_t first = 0; first < det.n_modules; first += team.size()) {
    uint32_t const m = first + team.rank(), item = event * det.n_modules + m;
    uint32_t total;
    uint32_t const begin = at + team.exclusive_scan(m < det.n_modules ? modules.kept[item] : 0u, total);
    at += total;
    if (m < det.n_modules) modules.hit_begin[item] = begin;
  }
  if (team.rank() == 0) {
    results.clusters[event] = at;
    results.hits[event] = smaller(at, limits.max_hits);
    if (at > limits.max_hits) atomic_or(&results.flags[event], FLAG_HIT_OVERFLOW);
  }
}

// Exclusive prefix sum of a count per event, with the total behind the last event. O(events).
HLT_FN void scan_events(Team const& team, Batch const& batch, uint32_t const* count, uint32_t* offset) {
  uint32_t const n = *batch.n_events;
  uint32_t at = 0;
  for (uint32_t first = 0; first < n; first += team.size()) {
    uint32_t const e = first + team.rank();
    uint32_t total;
    uint32_t const begin = at + team.exclusive_scan(e < n ? count[e] : 0u, total);
    at += total;
    if (e < n) offset[e] = begin;
  }
  if (team.rank() == 0) offset[n] = at;
  team.sync();
}

// Item: the batch. First hit of each event.
HLT_FN void place_events(Team const& team, uint32_t, Batch const& batch, Events const& events, Results const& results) {
  scan_events(team, batch, results.hits, events.hit_offset);
  if (team.rank() != 0) return;
  *batch.n_hits = events.hit_offset[*batch.n_events];
  *batch.n_hit_groups = (*batch.n_hits + GROUP - 1) / GROUP;
}

// One coordinate of the estimator: x with rows, y with columns.
struct Axis {
  int32_t const* edge;  // lower edges in units of the pitch
  uint32_t last;        // number of the last row or column
  float pitch, centre, shift, charge_width, origin, edge_error;
};

struct Coordinate {
  float position, error2;
  int32_t size;
};

HLT_FN int32_t is_big(Axis const& axis, uint32_t i) { return axis.edge[i + 1] - axis.edge[i] > 1; }

HLT_FN int64_t saturated(uint64_t charge) { return int64_t(smaller(charge, uint64_t(MAX_CHARGE))); }

// `low` and `high` are the first and last row of the cluster, with their charges; sigma are the errors by size class.
HLT_FN Coordinate estimate(Axis const& axis, uint32_t low, uint32_t high, uint64_t low_charge, uint64_t high_charge, float thickness,
                           float slope, float sigma_many, float sigma_one, float sigma_one_big) {
  int32_t const lower = axis.edge[low + 1], upper = axis.edge[high];  // inner edges
  int32_t const big_low = is_big(axis, low), big_high = is_big(axis, high);
  float position = axis.shift + axis.pitch * (0.5f * float(lower + upper) + -axis.centre);
  int64_t const difference = saturated(high_charge) - saturated(low_charge);
  int64_t sum = saturated(high_charge) + saturated(low_charge);
  if (sum == 0) sum = 1;
  if (low != high) {
    float width = axis.pitch * 0.5f * float(2 + big_low + big_high);
    if (high == low + 1) {
      float const cot = (position - axis.origin) * slope;
      float const projected = thickness * cot - axis.charge_width;
      float const effective = (projected < 0.f ? -projected : projected) - axis.pitch * float(upper - lower);
      if (effective >= 0.f && effective <= axis.pitch) width = effective;
    }
    position = position + 0.5f * (float(difference) / float(sum)) * width;
  }
  Coordinate out;
  out.position = position;
  bool const at_edge = low == 0 || high == axis.last;
  float const sigma = low != high ? sigma_many : (big_low ? sigma_one_big : sigma_one);
  float const error = at_edge ? axis.edge_error : sigma;
  out.error2 = error * error;
  float const imbalance = float(difference);
  double const eighths = 8. * double(imbalance < 0.f ? -imbalance : imbalance) / double(float(sum));
  int32_t const size = 8 * (upper + 2 - lower + big_low + big_high) - int32_t(eighths);
  out.size = smaller(size, 1023) * (at_edge ? -1 : 1);
  return out;
}

// Azimuth as 16-bit integer by the polynomial of the CMS vector code; (0, 0) gives a quarter of pi.
HLT_FN int16_t short_phi(float x, float y) {
  float const ax = x < 0.f ? -x : x, ay = y < 0.f ? -y : y;
  float t = ax + ay > 0.f ? (ax - ay) / (ax + ay) : 0.f;
  if (x < 0.f) t = -t;
  float const u = t * t;
  float const s = t * (-10422.177734375f + u * (3349.97412109375f + u * (-1525.589599609375f + u * 406.64190673828125f)));
  int32_t const phi = (x < 0.f ? 24576 : 8192) + int32_t(s);
  return int16_t(y < 0.f ? -phi : phi);
}

// Order-free digest: each element contributes a hash of its place and content, the sum does not depend on who adds first.
HLT_FN uint64_t digest_hit(Hits const& hits, uint32_t index, uint32_t place) {
  uint64_t h = mix(uint64_t(place) << 32 | hits.module[index]);
  h = mix(h, uint64_t(float_bits(hits.x_local[index])) << 32 | float_bits(hits.y_local[index]));
  h = mix(h, uint64_t(float_bits(hits.x_error2[index])) << 32 | float_bits(hits.y_error2[index]));
  h = mix(h, uint64_t(float_bits(hits.x[index])) << 32 | float_bits(hits.y[index]));
  h = mix(h, uint64_t(float_bits(hits.z[index])) << 32 | float_bits(hits.r[index]));
  h = mix(h, uint64_t(uint32_t(hits.charge[index])) << 32 | uint64_t(uint16_t(hits.phi[index])));
  return mix(h, uint64_t(uint16_t(hits.size_x[index])) << 16 | uint16_t(hits.size_y[index]));
}

// Item: 32 modules. Tells their hits where their clusters are. O(clusters).
HLT_FN void assign_hits(WarpTeam const& team, uint32_t item, Detector const& det, HitLimits const& limits, Batch const& batch,
                        ModulePixels const& modules, ModuleClusters const& found, Events const& events, Hits const& hits,
                        HitSources const& sources) {
  uint32_t const end = smaller((item + 1) * GROUP, *batch.n_modules);
  for (uint32_t m0 = item * GROUP; m0 < end; m0 += team.size()) {
    uint32_t const m = smaller(m0 + team.rank(), end - 1), event = m / det.n_modules, first = found.hit_begin[m];
    uint32_t const room = first < limits.max_hits ? limits.max_hits - first : 0;
    uint32_t const at = events.hit_offset[event] + first, cluster = modules.begin[m];
    team.share_out(m == m0 + team.rank() ? smaller(found.kept[m], room) : 0u, [&](uint32_t owner, uint32_t k, bool active) {
      uint32_t const h = team.from(owner, at) + k, c = team.from(owner, cluster) + k, e = team.from(owner, event);
      if (!active) return;
      sources.cluster[h] = c;
      sources.event[h] = e;
      hits.module[h] = uint16_t(m0 + owner - e * det.n_modules);
    });
  }
}

// Item: a hit. Position, error, charge and size from its cluster; its part of the event's digest. O(1).
HLT_FN void build_hits(uint32_t h, Detector const& det, PixelEdges const& edges, ModuleTable const& table, Clusters const& clusters,
                       HitSources const& sources, Events const& events, Hits const& hits) {
  uint32_t const c = sources.cluster[h], event = sources.event[h], m = hits.module[h];
  float const thickness = table.thickness[m], slope = -1.f / table.origin_at(m, 2);
  Axis const along_x = {
      edges.x, det.rows - 1, det.pitch_x, det.centre_x, table.shift_x[m], table.charge_width_x[m], table.origin_at(m, 0), det.edge_error_x};
  Axis const along_y = {
      edges.y, det.cols - 1, det.pitch_y, det.centre_y, table.shift_y[m], table.charge_width_y[m], table.origin_at(m, 1), det.edge_error_y};
  Coordinate const x =
      estimate(along_x, clusters.min_row[c], clusters.max_row[c], clusters.first_row_charge[c], clusters.last_row_charge[c], thickness,
               slope, table.sigma_x_at(m, 0), table.sigma_x_at(m, 1), table.sigma_x_at(m, 2));
  Coordinate const y =
      estimate(along_y, clusters.min_col[c], clusters.max_col[c], clusters.first_col_charge[c], clusters.last_col_charge[c], thickness,
               slope, table.sigma_y_at(m, 0), table.sigma_y_at(m, 1), table.sigma_y_at(m, 2));
  hits.x_local[h] = x.position;
  hits.y_local[h] = y.position;
  hits.x_error2[h] = x.error2;
  hits.y_error2[h] = y.error2;
  float const gx = table.rotation_at(m, 0) * x.position + table.rotation_at(m, 3) * y.position + table.position_at(m, 0) - det.beam_x;
  float const gy = table.rotation_at(m, 1) * x.position + table.rotation_at(m, 4) * y.position + table.position_at(m, 1) - det.beam_y;
  float const gz = table.rotation_at(m, 2) * x.position + table.rotation_at(m, 5) * y.position + table.position_at(m, 2) - det.beam_z;
  hits.x[h] = gx;
  hits.y[h] = gy;
  hits.z[h] = gz;
  hits.r[h] = square_root(gx * gx + gy * gy);
  hits.phi[h] = short_phi(gx, gy);
  hits.charge[h] = int32_t(saturated(clusters.charge[c]));
  hits.size_x[h] = int16_t(x.size);
  hits.size_y[h] = int16_t(y.size);
  add_for_event(events.digest, event, digest_hit(hits, h, h - events.hit_offset[event]));
}

}  // namespace hlt
