// hits: clusters -> positions with errors, in the module's frame and globally. The formula is the fast estimator of the CMS pixel
// local reconstruction; every operation is one IEEE float32 operation in the order written, unless it says double.
#pragma once
#include "backends/lanes.cuh"
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
  float pitch, centre, edge_error;
};

// Of the module of each lane, along the axis.
struct AxisModules {
  Floats shift, charge_width, origin, sigma_many, sigma_one, sigma_one_big;  // sigma: errors by size class
};

// First and last row of the cluster of each lane, with their charges.
struct Ends {
  uint32_t low[LANES], high[LANES];
  Reals low_charge, high_charge;
};

struct Coordinate {
  Floats position, error2;
  Ints size;
};

HLT_FN uint32_t saturated(uint64_t charge) { return uint32_t(smaller(charge, uint64_t(MAX_CHARGE))); }

template <class T>
HLT_FN T absolute_value(T const& v) {
  return select(v < 0.f, -v, v);
}

HLT_FN Coordinate estimate(Axis const& axis, AxisModules const& modules, Ends const& ends, Floats thickness, Floats slope) {
  Ints const low = lanes<Ints>([&](uint32_t l) { return int32_t(ends.low[l]); });
  Ints const high = lanes<Ints>([&](uint32_t l) { return int32_t(ends.high[l]); });
  auto const edge = [&](uint32_t const(&at)[LANES], uint32_t next) {
    return lanes<Ints>([&](uint32_t l) { return axis.edge[at[l] + next]; });
  };
  Ints const lower = edge(ends.low, 1), upper = edge(ends.high, 0);  // inner edges
  Ints const zero = Ints(), one = all<Ints>(1);
  Ints const big_low = select(lower - edge(ends.low, 0) > 1, one, zero), big_high = select(edge(ends.high, 1) - upper > 1, one, zero);
  Floats position = modules.shift + axis.pitch * (0.5f * to_float(lower + upper) + -axis.centre);
  Reals const sum = ends.high_charge + ends.low_charge;
  Floats const difference = to_float(ends.high_charge - ends.low_charge);
  Floats const total = to_float(select(sum == 0., all<Reals>(1.), sum));
  Floats const projected = thickness * ((position - modules.origin) * slope) - modules.charge_width;
  Floats const effective = absolute_value(projected) - axis.pitch * to_float(upper - lower);
  auto const two = (high == low + 1) & (effective >= 0.f) & (effective <= axis.pitch);
  auto const several = high != low;
  Floats const width = select(two, effective, axis.pitch * 0.5f * to_float(2 + big_low + big_high));
  Coordinate out;
  out.position = select(several, position + 0.5f * (difference / total) * width, position);
  auto const at_edge = (low == 0) | (high == int32_t(axis.last));
  Floats const sigma = select(several, modules.sigma_many, select(big_low != 0, modules.sigma_one_big, modules.sigma_one));
  Floats const error = select(at_edge, all<Floats>(axis.edge_error), sigma);
  out.error2 = error * error;
  Reals const eighths = 8. * to_double(absolute_value(difference)) / to_double(total);
  Ints const size = smaller(8 * (upper + 2 - lower + big_low + big_high) - to_int(eighths), all<Ints>(1023));
  out.size = select(at_edge, -size, size);
  return out;
}

// Azimuth as 16-bit integer by the polynomial of the CMS vector code; (0, 0) gives a quarter of pi.
HLT_FN Ints short_phi(Floats x, Floats y) {
  Floats const ax = absolute_value(x), ay = absolute_value(y);
  Floats const zero = Floats(), ratio = select(ax + ay > 0.f, (ax - ay) / (ax + ay), zero), t = select(x < 0.f, -ratio, ratio);
  Floats const u = t * t;
  Floats const s = t * (-10422.177734375f + u * (3349.97412109375f + u * (-1525.589599609375f + u * 406.64190673828125f)));
  Ints const phi = select(x < 0.f, all<Ints>(24576), all<Ints>(8192)) + to_int(s);
  return select(y < 0.f, -phi, phi);
}

// Steps of the hashes of the lanes, side by side: each step of a hash waits for the one before.
HLT_FN void mix_floats(uint64_t (&h)[LANES], Floats const& high, Floats const& low) {
  for (uint32_t l = 0; l < LANES; ++l) h[l] = mix(h[l], uint64_t(float_bits(lane(high, l))) << 32 | float_bits(lane(low, l)));
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

// Items: hits, LANES at a time; where there are fewer, the last one again. Position, error, charge and size from their clusters; their part
// of the event's digest. Order-free: each hit contributes a hash of its place and content, the sum does not depend on who adds first.
HLT_FN void build_hits(uint32_t first, uint32_t n_hits, Detector const& det, PixelEdges const& edges, ModuleTable const& table,
                       Clusters const& clusters, HitSources const& sources, Events const& events, Hits const& hits) {
  uint32_t const n = smaller(LANES, n_hits - first);
  uint32_t c[LANES], m[LANES];
  Ends rows, cols;
  for (uint32_t l = 0; l < LANES; ++l) {
    uint32_t const h = smaller(first + l, n_hits - 1);
    c[l] = sources.cluster[h];
    m[l] = hits.module[h];
    rows.low[l] = clusters.min_row[c[l]];
    rows.high[l] = clusters.max_row[c[l]];
    cols.low[l] = clusters.min_col[c[l]];
    cols.high[l] = clusters.max_col[c[l]];
  }
  auto const charge = [&](uint64_t const* column) { return lanes([&](uint32_t l) { return double(saturated(column[c[l]])); }); };
  rows.low_charge = charge(clusters.first_row_charge);
  rows.high_charge = charge(clusters.last_row_charge);
  cols.low_charge = charge(clusters.first_col_charge);
  cols.high_charge = charge(clusters.last_col_charge);
  auto const of_module = [&](float const* column) { return lanes<Floats>([&](uint32_t l) { return column[m[l]]; }); };
  auto const rotation = [&](uint32_t k) { return lanes<Floats>([&](uint32_t l) { return table.rotation_at(m[l], k); }); };
  auto const position = [&](uint32_t k) { return lanes<Floats>([&](uint32_t l) { return table.position_at(m[l], k); }); };
  auto const origin = [&](uint32_t k) { return lanes<Floats>([&](uint32_t l) { return table.origin_at(m[l], k); }); };
  auto const sigma_x = [&](uint32_t k) { return lanes<Floats>([&](uint32_t l) { return table.sigma_x_at(m[l], k); }); };
  auto const sigma_y = [&](uint32_t k) { return lanes<Floats>([&](uint32_t l) { return table.sigma_y_at(m[l], k); }); };

  Floats const thickness = of_module(table.thickness), slope = -1.f / origin(2);
  Coordinate const x = estimate({edges.x, det.rows - 1, det.pitch_x, det.centre_x, det.edge_error_x},
                                {of_module(table.shift_x), of_module(table.charge_width_x), origin(0), sigma_x(0), sigma_x(1), sigma_x(2)},
                                rows, thickness, slope);
  Coordinate const y = estimate({edges.y, det.cols - 1, det.pitch_y, det.centre_y, det.edge_error_y},
                                {of_module(table.shift_y), of_module(table.charge_width_y), origin(1), sigma_y(0), sigma_y(1), sigma_y(2)},
                                cols, thickness, slope);
  Floats const gx = rotation(0) * x.position + rotation(3) * y.position + position(0) - det.beam_x;
  Floats const gy = rotation(1) * x.position + rotation(4) * y.position + position(1) - det.beam_y;
  Floats const gz = rotation(2) * x.position + rotation(5) * y.position + position(2) - det.beam_z;
  Floats const r = square_root(gx * gx + gy * gy);
  Ints const phi = short_phi(gx, gy);
  store_lanes(x.position, hits.x_local + first, n);
  store_lanes(y.position, hits.y_local + first, n);
  store_lanes(x.error2, hits.x_error2 + first, n);
  store_lanes(y.error2, hits.y_error2 + first, n);
  store_lanes(gx, hits.x + first, n);
  store_lanes(gy, hits.y + first, n);
  store_lanes(gz, hits.z + first, n);
  store_lanes(r, hits.r + first, n);

  uint64_t digest[LANES];
  uint32_t event[LANES], total[LANES];
  for (uint32_t l = 0; l < LANES; ++l) {
    uint32_t const h = smaller(first + l, n_hits - 1);
    event[l] = sources.event[h];
    total[l] = saturated(clusters.charge[c[l]]);
    digest[l] = mix(uint64_t(h - events.hit_offset[event[l]]) << 32 | m[l]);
  }
  mix_floats(digest, x.position, y.position);
  mix_floats(digest, x.error2, y.error2);
  mix_floats(digest, gx, gy);
  mix_floats(digest, gz, r);
  for (uint32_t l = 0; l < LANES; ++l) digest[l] = mix(digest[l], uint64_t(total[l]) << 32 | uint64_t(uint16_t(lane(phi, l))));
  for (uint32_t l = 0; l < LANES; ++l) digest[l] = mix(digest[l], uint64_t(uint16_t(lane(x.size, l))) << 16 | uint16_t(lane(y.size, l)));
  for (uint32_t l = 0; l < n; ++l) {
    hits.phi[first + l] = int16_t(lane(phi, l));
    hits.charge[first + l] = int32_t(total[l]);
    hits.size_x[first + l] = int16_t(lane(x.size, l));
    hits.size_y[first + l] = int16_t(lane(y.size, l));
    add_for_event(events.digest, event[l], digest[l]);
  }
}

}  // namespace hlt
