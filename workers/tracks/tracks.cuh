// tracks: cells -> links between cells -> paths. The cellular automaton of the Patatrack reconstruction, with rules that do not depend on
// any order: a cell is dropped if a shorter one does the same, a candidate if a longer one shares a cell.
#pragma once
#include "cells/cells.cuh"

namespace hlt {

constexpr uint32_t FLAG_TRACK_OVERFLOW = 1u << 10;
constexpr uint32_t CELL_USED = 1u << 0, CELL_KILLED = 1u << 1;
constexpr uint32_t MAX_TRACK_HITS = 6, MAX_TRACK_CELLS = MAX_TRACK_HITS - 1;
constexpr uint32_t TRACK_BAD = 0, TRACK_DUPLICATE = 1, TRACK_LOOSE = 2, TRACK_HIGH_PURITY = 3;
constexpr uint64_t NO_KEY = ~0ull;

// Position of a hit in one piece: 16 bytes that are read together.
struct alignas(16) Point {
  float x, y, z, r;
};
HLT_FN Point point(HitPoints const& points, uint32_t h) { return reinterpret_cast<Point const*>(points.value)[h]; }

// Item: a hit.
HLT_FN void clear_hits(uint32_t h, Hits const& hits, HitUses const& uses, HitPoints const& points) {
  uses.cells[h] = uses.longest[h] = uses.loose[h] = 0;
  uses.best[h] = NO_KEY;
  reinterpret_cast<Point*>(points.value)[h] = {hits.x[h], hits.y[h], hits.z[h], hits.r[h]};
}

// Item: a cell.
HLT_FN void clear_cells(uint32_t c, HitCells const& info, Cells const& cells, CellStates const& states, Chunks const& chunks) {
  if (c % CHUNK == 0) chunks.links[c / CHUNK] = chunks.tracks[c / CHUNK] = 0;
  states.event[c] = info.event[cells.inner[c]];
  states.state[c] = states.longest[c] = 0;
  states.best[c] = NO_KEY;
}

// Does the cell middle -> outer continue the cell inner -> middle? First the alignment in r-z, within what scattering allows at pt_min.
HLT_FN bool aligned(float theta_cut, TrackCuts const& cuts, Point const& inner, Point const& middle, float ro, float zo) {
  float const r1 = inner.r, z1 = inner.z, ri = middle.r, zi = middle.z;
  float const dr = r1 - ro, dz = z1 - zo, d2 = dr * dr + dz * dz;
  float const area = magnitude(z1 * (ri - ro) + zi * (ro - r1) + zo * (r1 - ri));
  return !(area * cuts.pt_min > theta_cut * square_root(d2) * magnitude(dr));
}

// Then the curvature, and the distance of the circle through the three hits to the beam line.
HLT_FN bool bends(float dca_cut, TrackCuts const& cuts, Point const& inner, Point const& middle, Point const& outer) {
  float const xm = middle.x, ym = middle.y;
  float const ax = inner.x - xm, ay = inner.y - ym, bx = outer.x - xm, by = outer.y - ym;
  float const cross = ax * by - ay * bx, a2 = ax * ax + ay * ay, b2 = bx * bx + by * by;
  // The centre lies along n = (nx, ny) from the middle hit, at |n| / (2 cross).
  float const nx = by * a2 - ay * b2, ny = ax * b2 - bx * a2, norm = square_root(nx * nx + ny * ny);
  if (!(norm > 0.f)) return false;
  float const curvature = 2.f * cross / norm;
  if ((cuts.cut_both_charges ? magnitude(curvature) : curvature) > cuts.max_curvature) return false;
  // (distance of the centre to the beam line - radius) / radius
  float const ux = curvature * xm + nx / norm, uy = curvature * ym + ny / norm;
  float const dca = square_root(ux * ux + uy * uy) - 1.f;
  return magnitude(dca) < dca_cut * magnitude(curvature);
}

// A cell and what its continuation depends on.
struct Continuation {
  Point inner, middle;
  float theta_cut, dca_cut;
  HLT_FN Continuation(uint32_t c, Layers const& layers, HitPoints const& points, HitCells const& info, Cells const& cells)
      : inner(point(points, cells.inner[c])),
        middle(point(points, cells.outer[c])),
        theta_cut(layers.theta_cut[info.layer[cells.outer[c]]]),
        dca_cut(layers.dca_cut[info.layer[cells.inner[c]]]) {}
  HLT_FN bool by(uint32_t next, TrackCuts const& cuts, HitPoints const& points, Cells const& cells) const {
    return aligned(theta_cut, cuts, inner, middle, cells.outer_r[next], cells.outer_z[next]) &&
           bends(dca_cut, cuts, inner, middle, point(points, cells.outer[next]));
  }
};

// Item: a cell. Which of the cells that start at its outer hit continue it? O(those cells).
HLT_FN void link_cells(uint32_t c, Layers const& layers, TrackCuts const& cuts, HitPoints const& points, HitCells const& info,
                       Cells const& cells, CellStates const& states, Chunks const& chunks) {
  uint32_t const middle = cells.outer[c], first = info.begin[middle], n = info.count[middle];
  uint64_t mask = 0;
  uint32_t links = 0;
  if (n != 0) {
    Continuation const continued(c, layers, points, info, cells);
    for (uint32_t k = 0; k < n; ++k) {
      if (!continued.by(first + k, cuts, points, cells)) continue;
      ++links;
      if (k < MASK_BITS) mask |= uint64_t(1) << k;
    }
  }
  states.mask[c] = mask;
  states.links[c] = links;
  if (links != 0) atomic_add(&chunks.links[c / CHUNK], uint64_t(links));
}

// Sums over chunks of cells -> sums over all cells before each chunk; the entry after the last chunk is the total.
HLT_FN void scan_chunks(Team const& team, uint32_t n_chunks, uint64_t* sums) {
  uint64_t at = 0;
  for (uint32_t i0 = 0; i0 < n_chunks; i0 += team.size()) {
    uint32_t const i = i0 + team.rank();
    uint64_t total;
    uint64_t const before = at + team.exclusive_scan(i < n_chunks ? sums[i] : uint64_t(0), total);
    at += total;
    if (i < n_chunks) sums[i] = before;
  }
  if (team.rank() == 0) sums[n_chunks] = at;
  team.sync();
}

// Counts of the cells of a chunk -> sums over the cells of the chunk before each.
HLT_FN void number_chunk(Team const& team, uint32_t chunk, uint32_t n_cells, uint32_t const* count, uint32_t* place) {
  uint32_t const begin = chunk * CHUNK, end = smaller(begin + CHUNK, n_cells);
  uint32_t at = 0;
  for (uint32_t i0 = begin; i0 < end; i0 += team.size()) {
    uint32_t const i = i0 + team.rank();
    uint32_t total;
    uint32_t const before = at + team.exclusive_scan(i < end ? count[i] : 0u, total);
    at += total;
    if (i < end) place[i] = before;
  }
}

// Sum over all cells of the batch before cell c.
HLT_FN uint64_t sum_before(uint32_t c, uint32_t n_cells, uint64_t const* sums, uint32_t const* place) {
  return c < n_cells ? sums[c / CHUNK] + place[c] : sums[(n_cells + CHUNK - 1) / CHUNK];
}

// What a cell's entries take of the event's capacity: the first of them within the event, and how many.
struct Share {
  uint32_t first, n;
};
HLT_FN Share share(uint64_t place, uint32_t n, uint64_t capacity) {
  uint64_t const first = smaller(place, capacity);
  return {uint32_t(first), uint32_t(smaller(place + n, capacity) - first)};
}

// For every event: where its entries begin among those of all cells, how many it keeps; then where these begin in the arena.
HLT_FN void place_entries(Team const& team, Batch const& batch, Events const& events, Results const& results, uint32_t per_word,
                          uint64_t const* sums, uint32_t const* place, uint64_t* base, uint32_t* kept, uint32_t* offset) {
  uint32_t const n_cells = *batch.n_cells;
  for (uint32_t e = team.rank(); e < *batch.n_events; e += team.size()) {
    uint64_t const begin = sum_before(events.cell_offset[e], n_cells, sums, place);
    uint64_t const n = sum_before(events.cell_offset[e + 1], n_cells, sums, place) - begin;
    uint64_t const capacity = uint64_t(batch.payload_words[e]) * per_word;
    base[e] = begin;
    kept[e] = uint32_t(smaller(n, capacity));
    if (n > capacity) atomic_or(&results.flags[e], FLAG_TRACK_OVERFLOW);
  }
  team.sync();
  scan_events(team, batch, kept, offset);
}

// Item: the batch.
HLT_FN void scan_links(Team const& team, uint32_t, Batch const& batch, Chunks const& chunks) {
  scan_chunks(team, *batch.n_chunks, chunks.links);
}

// Item: a chunk of cells.
HLT_FN void number_links(Team const& team, uint32_t chunk, Batch const& batch, CellStates const& states) {
  number_chunk(team, chunk, *batch.n_cells, states.links, states.link_place);
}

// Item: the batch. First link of each event; links beyond an event's capacity are left out.
HLT_FN void place_links(Team const& team, uint32_t, TrackCuts const& cuts, Batch const& batch, Events const& events,
                        CellStates const& states, Chunks const& chunks, StartCells const& starts, Results const& results) {
  if (team.rank() == 0) *starts.n = 0;
  place_entries(team, batch, events, results, cuts.links_per_word, chunks.links, states.link_place, events.link_base, events.links,
                events.link_offset);
}

// Item: a cell. Writes its links; marks the cells of its triplets as used and counts them at their outer hits.
HLT_FN void fill_links(uint32_t c, Layers const& layers, TrackCuts const& cuts, Batch const& batch, Events const& events,
                       HitPoints const& points, HitCells const& info, Cells const& cells, CellStates const& states, Chunks const& chunks,
                       Links const& links, HitUses const& uses) {
  uint32_t const found = states.links[c], event = states.event[c];
  if (found == 0) return;
  Share const mine = share(chunks.links[c / CHUNK] + states.link_place[c] - events.link_base[event], found,
                           uint64_t(batch.payload_words[event]) * cuts.links_per_word);
  uint32_t const begin = events.link_offset[event] + mine.first, n = mine.n;
  states.first_link[c] = begin;
  states.links[c] = n;
  if (n == 0) return;
  uint32_t const middle = cells.outer[c], first = info.begin[middle], candidates = info.count[middle];
  uint64_t mask = states.mask[c];
  uint32_t i = 0;
  auto const link = [&](uint32_t k) {
    links.cell[begin + i++] = first + k;
    if (!(atomic_or(&states.state[first + k], CELL_USED) & CELL_USED)) atomic_add(&uses.cells[cells.outer[first + k]], 1u);
  };
  for (; mask != 0 && i < n; mask &= mask - 1) link(lowest_bit(mask));
  if (candidates > MASK_BITS && i < n) {
    Continuation const continued(c, layers, points, info, cells);
    for (uint32_t k = MASK_BITS; k < candidates && i < n; ++k)
      if (continued.by(first + k, cuts, points, cells)) link(k);
  }
  if (!(atomic_or(&states.state[c], CELL_USED) & CELL_USED)) atomic_add(&uses.cells[middle], 1u);
}

// Item: an event. Places the lists of used cells by outer hit, from the event's first cell on. O(hits).
HLT_FN void number_uses(Team const& team, uint32_t event, Events const& events, HitUses const& uses) {
  uint32_t at = events.cell_offset[event];
  for (uint32_t h0 = events.hit_offset[event]; h0 < events.hit_offset[event + 1]; h0 += team.size()) {
    uint32_t const h = h0 + team.rank();
    bool const active = h < events.hit_offset[event + 1];
    uint32_t total;
    uint32_t const first = at + team.exclusive_scan(active ? uses.cells[h] : 0u, total);
    at += total;
    if (active) uses.first[h] = uses.cursor[h] = first;
  }
}

// Item: a cell.
HLT_FN void group_uses(uint32_t c, Cells const& cells, CellStates const& states, HitUses const& uses, UsedCells const& used) {
  if (states.state[c] & CELL_USED) used.cell[atomic_add(&uses.cursor[cells.outer[c]], 1u)] = c;
}

// Item: a cell. Two used cells that end at one hit, begin at different modules and point the same way are one particle seen by
// overlapping modules or neighbouring layers: the longer one goes (of equal ones the later). Whether a cell goes depends on the
// geometry alone, not on whether others went before. O(used cells at the outer hit).
HLT_FN void kill_duplicate_cells(uint32_t c, TrackCuts const& cuts, Hits const& hits, HitPoints const& points, Cells const& cells,
                                 CellStates const& states, HitUses const& uses, UsedCells const& used) {
  if (!(states.state[c] & CELL_USED)) return;
  uint32_t const outer = cells.outer[c], n = uses.cells[outer], inner = cells.inner[c];
  if (n < 2) return;
  Point const o = point(points, outer), p = point(points, inner);
  float const x = p.x - o.x, y = p.y - o.y, z = p.z - o.z, length2 = x * x + y * y + z * z;
  for (uint32_t k = 0; k < n; ++k) {
    uint32_t const other = used.cell[uses.first[outer] + k], h = cells.inner[other];
    if (hits.module[h] == hits.module[inner]) continue;
    Point const q = point(points, h);
    float const u = q.x - o.x, v = q.y - o.y, w = q.z - o.z, other2 = u * u + v * v + w * w;
    if (other2 > length2 || (other2 == length2 && other >= c)) continue;
    float const dot = x * u + y * v + z * w;
    if (dot * dot < cuts.min_alignment2 * length2 * other2) continue;
    atomic_or(&states.state[c], CELL_KILLED);
    return;
  }
}

// Calls `found(path, cells)` for every path of living cells from `start` to an end, depth first in the order of links.
// Returns false if it gave up after max_steps cells.
template <class Found>
HLT_FN bool for_each_path(uint32_t start, TrackCuts const& cuts, CellStates const& states, Links const& links, Found found) {
  uint32_t path[MAX_TRACK_CELLS], next[MAX_TRACK_CELLS];
  bool leaf[MAX_TRACK_CELLS];
  uint32_t const max_cells = smaller(cuts.max_track_hits - 1, MAX_TRACK_CELLS);
  uint32_t depth = 0, steps = 0;
  path[0] = start;
  next[0] = 0;
  leaf[0] = true;
  while (true) {
    uint32_t const c = path[depth];
    bool pushed = false;
    if (depth + 1 < max_cells) {
      while (next[depth] < states.links[c]) {
        uint32_t const child = links.cell[states.first_link[c] + next[depth]++];
        if (states.state[child] & CELL_KILLED) continue;
        leaf[depth] = false;
        ++depth;
        path[depth] = child;
        next[depth] = 0;
        leaf[depth] = true;
        pushed = true;
        break;
      }
    }
    if (pushed) {
      if (++steps >= cuts.max_steps) return false;
      continue;
    }
    if (leaf[depth] && depth + 2 >= cuts.min_track_hits) found(path, depth + 1);
    if (depth == 0) return true;
    --depth;
  }
}

HLT_FN bool starts_track(uint32_t c, LayerPairs const& pairs, Cells const& cells, CellStates const& states) {
  uint32_t const state = states.state[c];
  return (state & CELL_USED) && !(state & CELL_KILLED) && states.links[c] != 0 && pairs.starts_tracks[cells.pair[c]];
}

// Item: a cell. Number of track candidates that start with it; cells that start any are queued, in arbitrary order. O(steps).
HLT_FN void count_tracks(uint32_t c, LayerPairs const& pairs, TrackCuts const& cuts, Cells const& cells, CellStates const& states,
                         Links const& links, Chunks const& chunks, StartCells const& starts, Results const& results) {
  uint32_t n = 0;
  if (starts_track(c, pairs, cells, states)) {
    bool const complete = for_each_path(c, cuts, states, links, [&](uint32_t const*, uint32_t) { ++n; });
    if (!complete) atomic_or(&results.flags[states.event[c]], FLAG_TRACK_OVERFLOW);
  }
  states.tracks[c] = n;
  if (n == 0) return;
  atomic_add(&chunks.tracks[c / CHUNK], uint64_t(n));
  starts.cell[atomic_add(starts.n, 1u)] = c;
}

// Item: the batch.
HLT_FN void scan_tracks(Team const& team, uint32_t, Batch const& batch, Chunks const& chunks) {
  scan_chunks(team, *batch.n_chunks, chunks.tracks);
}

// Item: a chunk of cells.
HLT_FN void number_tracks(Team const& team, uint32_t chunk, Batch const& batch, CellStates const& states) {
  number_chunk(team, chunk, *batch.n_cells, states.tracks, states.track_place);
}

// Item: the batch. First candidate of each event; candidates beyond an event's capacity are left out.
HLT_FN void place_tracks(Team const& team, uint32_t, TrackCuts const& cuts, Batch const& batch, Events const& events,
                         CellStates const& states, Chunks const& chunks, FitQueue const& queue, Results const& results) {
  place_entries(team, batch, events, results, cuts.tracks_per_word, chunks.tracks, states.track_place, events.track_base, results.ntuplets,
                events.track_offset);
  if (team.rank() != 0) return;
  *batch.n_tracks = events.track_offset[*batch.n_events];
  *queue.n3 = *queue.n4 = *queue.n5 = *queue.n6 = 0;
}

// Item: a queued cell. Writes the candidates that start with it.
HLT_FN void fill_tracks(uint32_t item, TrackCuts const& cuts, Batch const& batch, Events const& events, Cells const& cells,
                        CellStates const& states, Links const& links, Chunks const& chunks, StartCells const& starts,
                        Tracks const& tracks) {
  uint32_t const c = starts.cell[item], event = states.event[c];
  Share const mine = share(chunks.tracks[c / CHUNK] + states.track_place[c] - events.track_base[event], states.tracks[c],
                           uint64_t(batch.payload_words[event]) * cuts.tracks_per_word);
  uint32_t const begin = events.track_offset[event] + mine.first, n = mine.n;
  uint32_t i = 0;
  for_each_path(c, cuts, states, links, [&](uint32_t const* path, uint32_t n_cells) {
    if (i >= n) return;
    uint32_t const t = begin + i++;
    tracks.event[t] = event;
    tracks.n_hits[t] = n_cells + 1;
    tracks.quality[t] = TRACK_BAD;
    tracks.score[t] = 0.f;
    tracks.hit_at(t, 0) = cells.inner[c];
    for (uint32_t k = 0; k < n_cells; ++k) {
      tracks.cell_at(t, k) = path[k];
      tracks.hit_at(t, k + 1) = cells.outer[path[k]];
      atomic_max(&states.longest[path[k]], n_cells + 1);
    }
  });
}

// Item: a track candidate. A candidate that shares a cell with a longer one is a duplicate and need not be fitted.
HLT_FN void drop_shorter_tracks(uint32_t t, CellStates const& states, Tracks const& tracks) {
  uint32_t const n = tracks.n_hits[t];
  for (uint32_t k = 0; k + 1 < n; ++k)
    if (states.longest[tracks.cell_at(t, k)] > n) tracks.quality[t] = TRACK_DUPLICATE;
}

}  // namespace hlt
