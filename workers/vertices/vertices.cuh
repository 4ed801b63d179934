// vertices: tracks -> primary vertices along the beam line. Density clustering in one dimension as in the Patatrack reconstruction;
// every sum runs over the tracks in their order, also where a warp computes its terms, so no result depends on threads.
#pragma once
#include "dnn/dnn.cuh"

namespace hlt {

constexpr uint32_t Z_BINS = 512;
constexpr uint32_t VERTEX_SHARES = 16;  // warps that share the vertices of an event

HLT_FN uint32_t z_bin(float z, float width) {
  float const b = z / width + 0.5f * float(Z_BINS);
  return b >= 0.f ? (b < float(Z_BINS) ? uint32_t(b) : Z_BINS - 1) : 0u;
}

// The tracks of an event in its part of the arrays; `n` of them.
struct ZTracks {
  VertexTracks const& v;
  uint32_t begin, n;
  HLT_FN bool close(uint32_t i, uint32_t j, VertexCuts const& cuts) const {
    float const dz = magnitude(v.z[begin + i] - v.z[begin + j]);
    return dz <= cuts.eps && dz * dz <= cuts.max_chi2 * (v.error2[begin + i] + v.error2[begin + j]);
  }
  // Density order: more neighbours first, then smaller z, then earlier track.
  HLT_FN bool denser(uint32_t j, uint32_t i) const {
    uint32_t const nj = v.neighbours[begin + j], ni = v.neighbours[begin + i];
    if (nj != ni) return nj > ni;
    float const zj = v.z[begin + j], zi = v.z[begin + i];
    return zj < zi || (zj == zi && j < i);
  }
};

// Calls f(j) for the tracks of the bins around track i.
template <class F>
HLT_FN void for_each_near(ZTracks const& tracks, uint32_t const* edges, float width, uint32_t i, F f) {
  uint32_t const b = z_bin(tracks.v.z[tracks.begin + i], width);
  uint32_t const from = edges[b > 0 ? b - 1 : 0], to = edges[smaller(b + 2, Z_BINS)];
  for (uint32_t k = from; k < to; ++k) f(tracks.v.sorted[tracks.begin + k]);
}

// The tracks of a vertex in their order, as a warp goes through them: one for each thread at a time.
struct Members {
  ZTracks const& tracks;
  uint32_t first, last, iv;
  HLT_FN Members(ZTracks const& t, Vertices const& out, uint32_t vertex)
      : tracks(t), first(t.begin + out.first_member[t.begin + vertex]), last(first + out.members[t.begin + vertex]), iv(vertex) {}
  // Calls f(track, is it still in the vertex?); all threads reach each call.
  template <class F>
  HLT_FN void for_each(WarpTeam const& team, F f) const {
    for (uint32_t m0 = first; m0 < last; m0 += team.size()) {
      uint32_t const m = m0 + team.rank(), i = tracks.begin + tracks.v.member[smaller(m, last - 1)];
      f(i, m < last && tracks.v.vertex[i] == iv);
    }
  }
};

// Weighted mean of the tracks of vertex iv; tracks beyond the outlier cut leave it.
HLT_FN void fit_vertex(WarpTeam const& team, ZTracks const& tracks, Vertices const& out, uint32_t iv, float outlier) {
  Members const members(tracks, out, iv);
  uint32_t const b = tracks.begin;
  double sum = 0., weight = 0.;
  members.for_each(team, [&](uint32_t i, bool in) {
    double const w = in ? 1. / double(tracks.v.error2[i]) : 0.;
    sum = team.add_in_order(sum, in ? w * double(tracks.v.z[i]) : 0.);
    weight = team.add_in_order(weight, w);
  });
  double const z = weight > 0. ? sum / weight : 0.;  // all tracks may have left it; the bits of 0 / 0 differ between machines
  double chi2 = 0., sum_pt = 0., sum_pt2 = 0.;
  int32_t ndof = -1;
  members.for_each(team, [&](uint32_t i, bool in) {
    double const d = z - double(tracks.v.z[i]), c = in ? d * d / double(tracks.v.error2[i]) : 0.;
    bool const stays = in && !(c > double(outlier));
    if (in && !stays) tracks.v.vertex[i] = NONE;
    float const pt = stays ? tracks.v.pt[i] : 0.f;
    uint32_t n;
    team.exclusive_count(stays, n);
    ndof += int32_t(n);
    chi2 = team.add_in_order(chi2, stays ? c : 0.);
    sum_pt = team.add_in_order(sum_pt, double(pt));
    sum_pt2 = team.add_in_order(sum_pt2, double(pt * pt));
  });
  if (team.rank() == 0) {
    out.fit_z[b + iv] = z;
    out.fit_weight[b + iv] = ndof > 0 && chi2 > 0. ? weight * double(ndof) / chi2 : weight;
    out.fit_chi2[b + iv] = chi2;
    out.fit_ndof[b + iv] = ndof;
    out.fit_sum_pt[b + iv] = sum_pt;
    out.fit_sum_pt2[b + iv] = sum_pt2;
  }
  team.sync();
}

// Two-means on the tracks of vertex iv: true if both halves are well apart; the tracks then know their half.
HLT_FN bool splits(WarpTeam const& team, ZTracks const& tracks, VertexCuts const& cuts, Vertices const& out, uint32_t iv) {
  Members const members(tracks, out, iv);
  double const zv = out.fit_z[tracks.begin + iv];
  members.for_each(team, [&](uint32_t i, bool in) {
    if (in) tracks.v.half[i] = double(tracks.v.z[i]) < zv ? 0 : 1;
  });
  team.sync();
  double z[2] = {0., 0.}, w[2] = {0., 0.};
  for (uint32_t round = 0; round < cuts.split_rounds; ++round) {
    z[0] = z[1] = w[0] = w[1] = 0.;
    members.for_each(team, [&](uint32_t i, bool in) {
      double const weight = in ? 1. / double(tracks.v.error2[i]) : 0., product = in ? weight * double(tracks.v.z[i]) : 0.;
      bool const low = in && tracks.v.half[i] == 0;
      z[0] = team.add_in_order(z[0], low ? product : 0.);
      z[1] = team.add_in_order(z[1], low ? 0. : product);
      w[0] = team.add_in_order(w[0], low ? weight : 0.);
      w[1] = team.add_in_order(w[1], low ? 0. : weight);
    });
    if (!(w[0] > 0.) || !(w[1] > 0.)) return false;
    z[0] /= w[0];
    z[1] /= w[1];
    bool moved = false;
    members.for_each(team, [&](uint32_t i, bool in) {
      double const at = double(tracks.v.z[i]);
      uint32_t const half = absolute(at - z[0]) < absolute(at - z[1]) ? 0 : 1;
      if (!in || half == tracks.v.half[i]) return;
      moved = true;
      tracks.v.half[i] = half;
    });
    team.sync();
    if (!team.any(moved)) break;
  }
  double const distance = z[0] - z[1];
  return distance * distance / (1. / w[0] + 1. / w[1]) >= double(cuts.split_distance2);
}

HLT_FN uint64_t digest_vertex(Vertices const& v, uint32_t index, uint32_t place) {
  uint64_t h = mix(uint64_t(place) << 32 | uint32_t(v.ndof[index]));
  h = mix(h, uint64_t(float_bits(v.z[index])) << 32 | float_bits(v.error[index]));
  return mix(h, uint64_t(float_bits(v.chi2[index])) << 32 | float_bits(v.sum_pt2[index]));
}

// Item: an event. Lists its tracks and finds the vertices they gather around; their numbers and members. O(tracks * neighbours).
HLT_FN void find_vertices(Team const& team, uint32_t event, Selection const& selection, VertexCuts const& cuts, Events const& events,
                          Tracks const& all, VertexTracks const& list, Vertices const& out, Results const& results) {
  uint32_t const begin = events.track_offset[event], end = events.track_offset[event + 1];
  uint32_t* const edges = team.scratch();                // Z_BINS + 1
  uint32_t* const cursor = team.scratch() + Z_BINS + 1;  // Z_BINS

  // The tracks that take part, in their order.
  auto const takes_part = [&](uint32_t t) {
    return (all.quality[t] >= selection.min_quality) & (all.n_hits[t] >= cuts.min_hits) & (all.pt[t] >= cuts.min_pt) &
           (all.cov_at(t, 14) > 0.f);
  };
  uint32_t const n = list_in_order(team, begin, end, 0, takes_part, [&](uint32_t place, uint32_t t) {
    uint32_t const i = begin + place;
    list.track[i] = t;
    list.z[i] = all.zip[t];
    list.error2[i] = all.cov_at(t, 14);
    list.pt[i] = all.pt[t];
    atomic_add(&cursor[z_bin(all.zip[t], cuts.eps)], 1u);
  });
  team.sync();
  uint32_t at = 0;
  for (uint32_t b0 = 0; b0 < Z_BINS; b0 += team.size()) {
    uint32_t const b = b0 + team.rank();
    uint32_t total;
    uint32_t const place = at + team.exclusive_scan(b < Z_BINS ? cursor[b] : 0u, total);
    at += total;
    if (b < Z_BINS) edges[b] = cursor[b] = place;
  }
  if (team.rank() == 0) edges[Z_BINS] = n;
  team.sync();
  ZTracks const tracks = {list, begin, n};
  for (uint32_t i = team.rank(); i < n; i += team.size())
    list.sorted[begin + atomic_add(&cursor[z_bin(list.z[begin + i], cuts.eps)], 1u)] = i;
  team.sync();

  // Neighbours, and the nearest one that is denser.
  for (uint32_t i = team.rank(); i < n; i += team.size()) {
    uint32_t count = 0;
    if (list.error2[begin + i] <= cuts.max_error2)
      for_each_near(tracks, edges, cuts.eps, i, [&](uint32_t j) { count += j != i && tracks.close(i, j, cuts); });
    list.neighbours[begin + i] = count;
  }
  team.sync();
  for (uint32_t i = team.rank(); i < n; i += team.size()) {
    uint32_t parent = i;
    float nearest = 0.f;
    for_each_near(tracks, edges, cuts.eps, i, [&](uint32_t j) {
      if (j == i || !tracks.denser(j, i) || !tracks.close(i, j, cuts)) return;
      float const dz = magnitude(list.z[begin + i] - list.z[begin + j]);
      if (parent == i || dz < nearest || (dz == nearest && tracks.denser(j, parent))) {
        parent = j;
        nearest = dz;
      }
    });
    list.parent[begin + i] = parent;
  }
  team.sync();

  // Roots with enough neighbours are vertices, numbered in the order of tracks.
  uint32_t n_vertices = 0;
  for (uint32_t i0 = 0; i0 < n; i0 += team.size()) {
    uint32_t const i = i0 + team.rank();
    bool const root = i < n && list.parent[begin + i] == i;
    bool const found = root && list.neighbours[begin + i] >= cuts.min_neighbours;
    uint32_t total;
    uint32_t const place = n_vertices + team.exclusive_scan(uint32_t(found), total);
    n_vertices += total;
    if (root) list.vertex[begin + i] = found ? place : NONE;
  }
  team.sync();
  for (uint32_t i = team.rank(); i < n; i += team.size()) {
    uint32_t root = i;
    while (list.parent[begin + root] != root) root = list.parent[begin + root];
    if (root != i) list.vertex[begin + i] = list.vertex[begin + root];
  }
  team.sync();

  // Places for the tracks of each vertex, so that its fit need not look at the others.
  for (uint32_t iv = team.rank(); iv < n_vertices; iv += team.size()) out.members[begin + iv] = 0;
  team.sync();
  for (uint32_t i = team.rank(); i < n; i += team.size())
    if (list.vertex[begin + i] != NONE) atomic_add(&out.members[begin + list.vertex[begin + i]], 1u);
  team.sync();
  uint32_t member = 0;
  for (uint32_t v0 = 0; v0 < n_vertices; v0 += team.size()) {
    uint32_t const iv = v0 + team.rank();
    uint32_t total;
    uint32_t const place = member + team.exclusive_scan(iv < n_vertices ? out.members[begin + iv] : 0u, total);
    member += total;
    if (iv < n_vertices) out.first_member[begin + iv] = place;
  }
  if (team.rank() == 0) {
    results.vertices[event] = n_vertices;
    events.vertex_tracks[event] = n;
  }
  for (uint32_t b = team.rank(); b < Z_BINS; b += team.size()) cursor[b] = 0;
  for (uint32_t b = team.rank(); b <= Z_BINS; b += team.size()) edges[b] = 0;
  team.sync();
}

// Item: a 16th of the vertices of an event. Lists their tracks, fits them, finds out whether they are two. O(vertices * tracks).
HLT_FN void fit_vertices(WarpTeam const& team, uint32_t item, VertexCuts const& cuts, Events const& events, VertexTracks const& list,
                         Vertices const& out, Results const& results) {
  uint32_t const event = item / VERTEX_SHARES, b = events.track_offset[event];
  ZTracks const tracks = {list, b, events.vertex_tracks[event]};
  for (uint32_t iv = item % VERTEX_SHARES; iv < results.vertices[event]; iv += VERTEX_SHARES) {
    list_in_order(
        team, 0, tracks.n, b + out.first_member[b + iv], [&](uint32_t i) { return list.vertex[b + i] == iv; },
        [&](uint32_t place, uint32_t i) { list.member[place] = i; });
    team.sync();
    fit_vertex(team, tracks, out, iv, cuts.outlier);
    int32_t const ndof = out.fit_ndof[b + iv];
    bool const poor = ndof >= int32_t(cuts.split_min_ndof) && out.fit_chi2[b + iv] >= double(cuts.split_chi2) * double(ndof);
    bool const two = poor && splits(team, tracks, cuts, out, iv);
    if (team.rank() == 0) out.split[b + iv] = two;
  }
}

// Item: an event. Vertices that are two: the second half gets a number of its own. O(vertices + tracks of split ones).
HLT_FN void split_vertices(Team const& team, uint32_t event, Events const& events, VertexTracks const& list, Vertices const& out,
                           Results const& results) {
  uint32_t const begin = events.track_offset[event], before = results.vertices[event];
  uint32_t n_vertices = before;
  for (uint32_t v0 = 0; v0 < before; v0 += team.size()) {
    uint32_t const iv = v0 + team.rank();
    uint32_t total;
    uint32_t const place = n_vertices + team.exclusive_scan(iv < before ? out.split[begin + iv] : 0u, total);
    n_vertices += total;
    if (iv >= before || !out.split[begin + iv]) continue;
    out.first_member[begin + place] = out.first_member[begin + iv];
    out.members[begin + place] = out.members[begin + iv];
    for (uint32_t m = 0; m < out.members[begin + iv]; ++m) {
      uint32_t const i = list.member[begin + out.first_member[begin + iv] + m];
      if (list.vertex[begin + i] == iv && list.half[begin + i] == 1) list.vertex[begin + i] = place;
    }
  }
  team.sync();
  if (team.rank() == 0) results.vertices[event] = n_vertices;
}

// Item: a 16th of the vertices of an event, those that were split among them.
HLT_FN void refit_vertices(WarpTeam const& team, uint32_t item, VertexCuts const& cuts, Events const& events, VertexTracks const& list,
                           Vertices const& out, Results const& results) {
  uint32_t const event = item / VERTEX_SHARES;
  ZTracks const tracks = {list, events.track_offset[event], events.vertex_tracks[event]};
  for (uint32_t iv = item % VERTEX_SHARES; iv < results.vertices[event]; iv += VERTEX_SHARES)
    fit_vertex(team, tracks, out, iv, cuts.final_outlier);
}

// Item: an event. Hardest vertex first; of equal ones the earlier. O(vertices^2).
HLT_FN void order_vertices(Team const& team, uint32_t event, Events const& events, Vertices const& out, Results const& results) {
  uint32_t const begin = events.track_offset[event], n_vertices = results.vertices[event];
  for (uint32_t iv = team.rank(); iv < n_vertices; iv += team.size()) {
    uint32_t place = 0;
    double const mine = out.fit_sum_pt2[begin + iv];
    for (uint32_t other = 0; other < n_vertices; ++other) {
      double const theirs = out.fit_sum_pt2[begin + other];
      place += theirs > mine || (theirs == mine && other < iv);
    }
    uint32_t const to = begin + place, from = begin + iv;
    out.z[to] = float(out.fit_z[from]);
    out.error[to] = float(square_root(1. / out.fit_weight[from]));
    out.chi2[to] = float(out.fit_chi2[from]);
    out.ndof[to] = out.fit_ndof[from];
    out.sum_pt2[to] = float(mine);
    out.ht[to] = out.pt2[to] = 0;
    if (place == 0) {
      results.best_z[event] = out.z[to];
      results.best_tracks[event] = uint32_t(out.ndof[to] + 1);
      results.best_sum_pt[event] = float(out.fit_sum_pt[from]);
      results.best_sum_pt2[event] = out.sum_pt2[to];
    }
    if (place == 1) results.second_sum_pt2[event] = out.sum_pt2[to];
    atomic_add(&events.digest[event], digest_vertex(out, to, place));
  }
}

// Item: a track candidate. A selected one adds to the sums of the nearest vertex (of two equally near ones the harder), if it is near.
// Sums in fixed point; a track whose momentum is mismeasured cannot make an event hard: pt is limited. O(vertices of the event).
HLT_FN void assign_tracks(uint32_t t, Selection const& selection, VertexCuts const& cuts, Events const& events, Tracks const& tracks,
                          Vertices const& vertices, Results const& results) {
  if (tracks.quality[t] < selection.min_quality) return;
  uint32_t const event = tracks.event[t], begin = events.track_offset[event], n = results.vertices[event];
  if (n == 0) return;
  float const z = tracks.zip[t];
  uint32_t nearest = begin;
  float distance = magnitude(vertices.z[begin] - z);
  for (uint32_t v = begin + 1; v < begin + n; ++v) {
    float const d = magnitude(vertices.z[v] - z);
    if (d < distance) {
      distance = d;
      nearest = v;
    }
  }
  float const variance = tracks.cov_at(t, 14);
  if (!(distance < cuts.near_cm + cuts.near_errors * square_root(variance > 0.f ? variance : 0.f))) return;
  float const pt = smaller(tracks.pt[t], cuts.near_max_pt);
  if (tracks.pt[t] >= cuts.ht_min_pt) atomic_add(&vertices.ht[nearest], uint64_t(pt * 1024.f));
  atomic_add(&vertices.pt2[nearest], uint64_t(pt * pt * 1024.f));
}

// Item: an event. The largest sums over its vertices. O(vertices).
HLT_FN void sum_vertices(uint32_t event, Events const& events, Vertices const& vertices, Results const& results) {
  uint32_t const begin = events.track_offset[event];
  uint64_t ht = 0, pt2 = 0;
  for (uint32_t v = begin; v < begin + results.vertices[event]; ++v) {
    ht = larger(ht, vertices.ht[v]);
    pt2 = larger(pt2, vertices.pt2[v]);
  }
  results.vertex_ht[event] = float(double(ht) / 1024.);
  results.vertex_pt2[event] = float(double(pt2) / 1024.);
}

}  // namespace hlt
