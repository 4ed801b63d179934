// tracks: cells -> links between cells -> paths. The cellular automaton of the Patatrack reconstruction, with rules that do not depend on
// any order: a cell is dropped if a shorter one does the same, a candidate if a longer one shares a cell.
#pragma once
#include "cells/cells.cuh"

namespace hlt {

constexpr uint32_t FLAG_TRACK_OVERFLOW = 1u << 10;
constexpr uint32_t CELL_USED = 1u << 0, CELL_KILLED = 1u << 1;
constexpr uint32_t MAX_TRACK_HITS = 6, MAX_TRACK_CELLS = MAX_TRACK_HITS - 1;
constexpr uint32_t MASK_BITS = 64;
constexpr uint32_t TRACK_BAD = 0, TRACK_DUPLICATE = 1, TRACK_LOOSE = 2, TRACK_HIGH_PURITY = 3;
constexpr uint64_t NO_KEY = ~0ull;

// Item: a hit.
HLT_FN void clear_hits(uint32_t h, HitUses const& uses) {
  uses.cells[h] = uses.longest[h] = uses.loose[h] = 0;
  uses.best[h] = NO_KEY;
}

// Item: a cell.
HLT_FN void clear_cells(uint32_t c, HitCells const& info, Cells const& cells, CellStates const& states) {
  states.event[c] = info.event[cells.inner[c]];
  states.state[c] = states.longest[c] = 0;
  states.best[c] = NO_KEY;
}

// Does the cell middle -> outer continue the cell inner -> middle? Alignment in r-z within what scattering allows at pt_min,
// curvature, and the distance of the circle through the three hits to the beam line.
HLT_FN bool continues(Layers const& layers, TrackCuts const& cuts, Hits const& hits, HitCells const& info, uint32_t inner, uint32_t middle,
                      uint32_t outer) {
  float const r1 = hits.r[inner], z1 = hits.z[inner], ri = hits.r[middle], zi = hits.z[middle], ro = hits.r[outer], zo = hits.z[outer];
  float const dr = r1 - ro, dz = z1 - zo, d2 = dr * dr + dz * dz;
  float const area = magnitude(z1 * (ri - ro) + zi * (ro - r1) + zo * (r1 - ri));
  if (area * cuts.pt_min > layers.theta_cut[info.layer[middle]] * square_root(d2) * magnitude(dr)) return false;

  float const xm = hits.x[middle], ym = hits.y[middle];
  float const ax = hits.x[inner] - xm, ay = hits.y[inner] - ym, bx = hits.x[outer] - xm, by = hits.y[outer] - ym;
  float const cross = ax * by - ay * bx, a2 = ax * ax + ay * ay, b2 = bx * bx + by * by;
  // The centre lies along n = (nx, ny) from the middle hit, at |n| / (2 cross).
  float const nx = by * a2 - ay * b2, ny = ax * b2 - bx * a2, norm = square_root(nx * nx + ny * ny);
  if (!(norm > 0.f)) return false;
  float const curvature = 2.f * cross / norm;
  if ((cuts.cut_both_charges ? magnitude(curvature) : curvature) > cuts.max_curvature) return false;
  // (distance of the centre to the beam line - radius) / radius
  float const ux = curvature * xm + nx / norm, uy = curvature * ym + ny / norm;
  float const dca = square_root(ux * ux + uy * uy) - 1.f;
  return magnitude(dca) < layers.dca_cut[info.layer[inner]] * magnitude(curvature);
}

// Item: a cell. Which of the cells that start at its outer hit continue it? O(those cells).
HLT_FN void link_cells(uint32_t c, Layers const& layers, TrackCuts const& cuts, Hits const& hits, HitCells const& info, Cells const& cells,
                       CellStates const& states) {
  uint32_t const inner = cells.inner[c], middle = cells.outer[c], first = info.begin[middle], n = info.count[middle];
  uint64_t mask = 0;
  uint32_t links = 0;
  for (uint32_t k = 0; k < n; ++k) {
    if (!continues(layers, cuts, hits, info, inner, middle, cells.outer[first + k])) continue;
    ++links;
    if (k < MASK_BITS) mask |= uint64_t(1) << k;
  }
  states.mask[c] = mask;
  states.links[c] = links;
}

// Turns counts of the event's entries into places, and cuts what is beyond the capacity; returns the number that is kept.
HLT_FN uint32_t number_within(Team const& team, uint32_t begin, uint32_t end, uint64_t capacity, uint32_t* count, uint32_t* place,
                              bool& overflow) {
  uint64_t at = 0;
  for (uint32_t i0 = begin; i0 < end; i0 += team.size()) {
    uint32_t const i = i0 + team.rank();
    uint64_t total;
    uint64_t const n = i < end ? count[i] : 0;
    uint64_t const first = at + team.exclusive_scan(n, total);
    at += total;
    if (i < end) {
      place[i] = uint32_t(smaller(first, capacity));
      count[i] = uint32_t(smaller(first + n, capacity) - smaller(first, capacity));
    }
  }
  overflow = at > capacity;
  return uint32_t(smaller(at, capacity));
}

// Item: an event. First link of each cell, counted within the event. O(cells).
HLT_FN void number_links(Team const& team, uint32_t event, TrackCuts const& cuts, Batch const& batch, Events const& events,
                         CellStates const& states, Results const& results) {
  bool overflow;
  uint32_t const n = number_within(team, events.cell_offset[event], events.cell_offset[event + 1],
                                   uint64_t(batch.payload_words[event]) * cuts.links_per_word, states.links, states.first_link, overflow);
  if (team.rank() == 0) {
    events.links[event] = n;
    if (overflow) atomic_or(&results.flags[event], FLAG_TRACK_OVERFLOW);
  }
}

// Item: the batch.
HLT_FN void place_links(Team const& team, uint32_t, Batch const& batch, Events const& events) {
  scan_events(team, batch, events.links, events.link_offset);
}

// Item: a cell. Writes its links; marks the cells of its triplets as used and counts them at their outer hits.
HLT_FN void fill_links(uint32_t c, Layers const& layers, TrackCuts const& cuts, Events const& events, Hits const& hits,
                       HitCells const& info, Cells const& cells, CellStates const& states, Links const& links, HitUses const& uses) {
  uint32_t const begin = events.link_offset[states.event[c]] + states.first_link[c], n = states.links[c];
  states.first_link[c] = begin;
  if (n == 0) return;
  uint32_t const middle = cells.outer[c], first = info.begin[middle], candidates = info.count[middle];
  uint64_t const mask = states.mask[c];
  uint32_t i = 0;
  for (uint32_t k = 0; k < candidates && i < n; ++k) {
    bool const linked =
        k < MASK_BITS ? (mask >> k & 1) != 0 : continues(layers, cuts, hits, info, cells.inner[c], middle, cells.outer[first + k]);
    if (!linked) continue;
    links.cell[begin + i++] = first + k;
    if (!(atomic_or(&states.state[first + k], CELL_USED) & CELL_USED)) atomic_add(&uses.cells[cells.outer[first + k]], 1u);
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
HLT_FN void kill_duplicate_cells(uint32_t c, TrackCuts const& cuts, Hits const& hits, Cells const& cells, CellStates const& states,
                                 HitUses const& uses, UsedCells const& used) {
  if (!(states.state[c] & CELL_USED)) return;
  uint32_t const outer = cells.outer[c], n = uses.cells[outer], inner = cells.inner[c];
  if (n < 2) return;
  float const xo = hits.x[outer], yo = hits.y[outer], zo = hits.z[outer];
  float const x = hits.x[inner] - xo, y = hits.y[inner] - yo, z = hits.z[inner] - zo, length2 = x * x + y * y + z * z;
  for (uint32_t k = 0; k < n; ++k) {
    uint32_t const other = used.cell[uses.first[outer] + k], h = cells.inner[other];
    if (hits.module[h] == hits.module[inner]) continue;
    float const u = hits.x[h] - xo, v = hits.y[h] - yo, w = hits.z[h] - zo, other2 = u * u + v * v + w * w;
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

// Item: a cell. Number of track candidates that start with it. O(steps).
HLT_FN void count_tracks(uint32_t c, LayerPairs const& pairs, TrackCuts const& cuts, Cells const& cells, CellStates const& states,
                         Links const& links, Results const& results) {
  uint32_t n = 0;
  if (starts_track(c, pairs, cells, states)) {
    bool const complete = for_each_path(c, cuts, states, links, [&](uint32_t const*, uint32_t) { ++n; });
    if (!complete) atomic_or(&results.flags[states.event[c]], FLAG_TRACK_OVERFLOW);
  }
  states.tracks[c] = n;
}

// Item: an event. First candidate of each cell, counted within the event. O(cells).
HLT_FN void number_tracks(Team const& team, uint32_t event, TrackCuts const& cuts, Batch const& batch, Events const& events,
                          CellStates const& states, Results const& results) {
  bool overflow;
  uint32_t const n =
      number_within(team, events.cell_offset[event], events.cell_offset[event + 1],
                    uint64_t(batch.payload_words[event]) * cuts.tracks_per_word, states.tracks, states.first_track, overflow);
  if (team.rank() == 0) {
    results.ntuplets[event] = n;
    if (overflow) atomic_or(&results.flags[event], FLAG_TRACK_OVERFLOW);
  }
}

// Item: the batch.
HLT_FN void place_tracks(Team const& team, uint32_t, Batch const& batch, Events const& events, Results const& results,
                         FitQueue const& queue) {
  scan_events(team, batch, results.ntuplets, events.track_offset);
  if (team.rank() != 0) return;
  *batch.n_tracks = events.track_offset[*batch.n_events];
  *queue.n3 = *queue.n4 = *queue.n5 = *queue.n6 = 0;
}

// Item: a cell. Writes the candidates that start with it.
HLT_FN void fill_tracks(uint32_t c, TrackCuts const& cuts, Events const& events, Cells const& cells, CellStates const& states,
                        Links const& links, Tracks const& tracks) {
  uint32_t const n = states.tracks[c];
  if (n == 0) return;
  uint32_t const event = states.event[c], begin = events.track_offset[event] + states.first_track[c];
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
