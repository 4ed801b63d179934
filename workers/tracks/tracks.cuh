// tracks: cells -> links between cells -> paths. The cellular automaton of the Patatrack reconstruction, with rules that do not depend on
// any order: a cell is dropped if a shorter one does the same, a candidate if a longer one shares a cell.
#pragma once
#include "cells/cells.cuh"

namespace hlt {

constexpr uint32_t FLAG_TRACK_OVERFLOW = 1u << 10;
constexpr uint32_t CELL_STARTS = 1u << 0, CELL_KILLED = 1u << 1;  // may begin a track; duplicates a shorter cell
constexpr uint32_t FIT_GROUP = 256;                               // candidates that a team queues together for the fit
constexpr uint32_t CHUNK = 1024;                                  // used cells whose candidates are numbered together
constexpr uint32_t MAX_TRACK_HITS = 6, MAX_TRACK_CELLS = MAX_TRACK_HITS - 1;
constexpr uint32_t TRACK_BAD = 0, TRACK_DUPLICATE = 1, TRACK_LOOSE = 2, TRACK_HIGH_PURITY = 3;
constexpr uint64_t NO_KEY = ~0ull;

// Item: a hit.
HLT_FN void clear_hits(uint32_t h, HitUses const& uses, Endings const& endings) {
  uses.longest[h] = uses.loose[h] = endings.n[h] = 0;
  uses.best[h] = NO_KEY;
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

// What the first look at the continuations of a cell needs: r and z of its hits, and the square of theta_cut / pt_min with a margin of a
// thousand times the rounding.
struct alignas(16) CellLine {
  float r1, z1, ri, zi;
};
HLT_FN float first_cut(float theta_cut, TrackCuts const& cuts) {
  float const cut = theta_cut / cuts.pt_min;
  return 1.001f * cut * cut;
}

// Most pairs of cells fail the first cut by far: no root is needed to see it.
HLT_FN bool far_from_aligned(float cut, CellLine const& cell, float ro, float zo) {
  float const dr = cell.r1 - ro, dz = cell.z1 - zo, dr2 = dr * dr;
  float const area = cell.z1 * (cell.ri - ro) + cell.zi * (ro - cell.r1) + zo * (cell.r1 - cell.ri);
  return area * area > cut * ((dr2 + dz * dz) * dr2);
}

// Which of the n <= 32 cells whose outer hits lie at r, z are not far from it. The compiler makes vectors of the loop, which is why it
// looks at whole vectors: there is room in the arena behind the last cell.
HLT_FN uint32_t near_in_a_row(float cut, CellLine const& cell, float const* r, float const* z, uint32_t n) {
  uint32_t mask = 0;
  uint32_t const whole = (n + 7) / 8 * 8;
  for (uint32_t i = 0; i < whole; ++i) mask |= uint32_t(!far_from_aligned(cut, cell, r[i], z[i])) << i;
  return n < 32 ? mask & ((1u << n) - 1u) : mask;
}

// Does the cell middle -> outer continue the cell inner -> middle?
HLT_FN bool continues(uint32_t inner, uint32_t middle, uint32_t outer, Layers const& layers, TrackCuts const& cuts, HitPoints const& points,
                      HitCells const& info) {
  Point const i = point(points, inner), m = point(points, middle), o = point(points, outer);
  return aligned(layers.theta_cut[info.layer[middle]], cuts, i, m, o.r, o.z) && bends(layers.dca_cut[info.layer[inner]], cuts, i, m, o);
}

HLT_FN bool bit_at(uint32_t const* bits, uint32_t i) { return bits[i / 32] >> i % 32 & 1u; }

// What the threads of a warp share out, in team memory: a cell's line, where the cells that may continue it begin, how many, which cell
// it is.
struct Candidates {
  CellLine* line;
  struct alignas(16) Rest {
    float cut;
    uint32_t first, n, cell;
  }* rest;
  HLT_FN Candidates(uint32_t* memory) : line(reinterpret_cast<CellLine*>(memory)), rest(reinterpret_cast<Rest*>(memory + 4 * GROUP)) {}
};

// Item: 512 cells. Which of the cells that start at their outer hits continue them? Marks both as used. A warp shares out the pairs of
// cells, four to a thread; the few that pass the first cut wait until there is one for every thread. O(pairs of cells).
HLT_FN void link_cells(WarpTeam const& team, uint32_t item, Layers const& layers, TrackCuts const& cuts, Batch const& batch,
                       HitPoints const& points, HitCells const& info, Cells const& cells, CellBits const& bits, CellLinks const& links) {
  uint32_t const begin = item * LINK_GROUP, end = smaller(begin + LINK_GROUP, *batch.n_cells);
  Candidates const candidates(team.scratch());
  uint32_t* const queue = team.scratch() + 8 * GROUP;
  uint32_t waiting = 0;
  // The k0-th cells and so on, by bits, that may continue cell c.
  auto const decide_on = [&](uint32_t c, uint32_t k0, uint32_t near) {
    uint32_t const middle = cells.outer[c], first = info.begin[middle];
    for (; near != 0; near &= near - 1) {
      uint32_t const k = k0 + lowest_bit(near), next = first + k;
      if (!continues(cells.inner[c], middle, cells.outer[next], layers, cuts, points, info)) continue;
      atomic_or(&links.mask[c], uint64_t(1) << (k >> mask_shift(info.count[middle])));
      atomic_or(&bits.linking[c / GROUP], 1u << c % GROUP);
      atomic_or(&bits.used[c / GROUP], 1u << c % GROUP);
      atomic_or(&bits.used[next / GROUP], 1u << next % GROUP);
    }
  };
  // What waits: which four cells, place of the cell in the item, which of the four.
  auto const decide = [&](uint32_t entry) { decide_on(begin + entry / 16 % LINK_GROUP, entry / (16 * LINK_GROUP) * 4, entry % 16); };
  for (uint32_t c0 = begin; c0 < end; c0 += team.size()) {
    uint32_t const c = smaller(c0 + team.rank(), end - 1), middle = cells.outer[c];
    bool const mine = c == c0 + team.rank();
    uint32_t const first = info.begin[middle], n = mine ? info.count[middle] : 0;
    Point const p = point(points, cells.inner[c]);
    CellLine const line = {p.r, p.z, cells.outer_r[c], cells.outer_z[c]};
    float const cut = first_cut(layers.theta_cut[info.layer[middle]], cuts);
    if (mine) links.mask[c] = 0;
    if (WarpTeam::size() == 1) {  // the lanes of a vector take the cells instead
      for (uint32_t k = 0; k < n; k += 32)
        decide_on(c, k, near_in_a_row(cut, line, cells.outer_r + first + k, cells.outer_z + first + k, smaller(n - k, 32u)));
      continue;
    }
    candidates.line[team.rank()] = line;
    candidates.rest[team.rank()] = {cut, first, n, c - begin};
    team.sync();
    team.share_out((n + 3) / 4, [&](uint32_t owner, uint32_t quarter, bool active) {
      CellLine const cell = candidates.line[owner];
      Candidates::Rest const rest = candidates.rest[owner];
      uint32_t near = 0;
      if (active) {
        uint32_t const k = 4 * quarter, left = rest.n - k;
        float const *const r = cells.outer_r + (rest.first + k), *const z = cells.outer_z + (rest.first + k);
        HLT_UNROLL
        for (uint32_t i = 0; i < 4; ++i)  // behind the last cell of the hit, too: there is room in the arena
          near |= uint32_t(!far_from_aligned(rest.cut, cell, read_only(r, i), read_only(z, i))) << i;
        if (left < 4) near &= (1u << left) - 1u;
      }
      team.put_aside(queue, waiting, near != 0, (quarter * LINK_GROUP + rest.cell) * 16 + near, decide);
    });
    team.sync();
  }
  team.take_up(queue, waiting, decide);
  for (uint32_t i = team.rank(); i < 8 * GROUP + 2 * GROUP; i += team.size()) team.scratch()[i] = 0;
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

// Item: 4096 cells. Used ones before each group of 32, counted within the chunk, and in all.
HLT_FN void number_used(Team const& team, uint32_t chunk, Batch const& batch, CellBits const& bits, CellChunks const& chunks) {
  uint32_t const first = chunk * (CELL_CHUNK / GROUP), last = smaller(first + CELL_CHUNK / GROUP, *batch.n_cell_groups);
  uint32_t at = 0;
  for (uint32_t g0 = first; g0 < last; g0 += team.size()) {
    uint32_t const g = g0 + team.rank();
    uint32_t total;
    uint32_t const before = at + team.exclusive_scan(g < last ? popcount(bits.used[g]) : 0u, total);
    at += total;
    if (g < last) bits.before[g] = before;
  }
  if (team.rank() == 0) chunks.used[chunk] = at;
}

// Used cells of the batch before cell c.
HLT_FN uint64_t used_before(uint32_t c, uint32_t n_cells, CellBits const& bits, CellChunks const& chunks) {
  if (c == n_cells) return chunks.used[(n_cells + CELL_CHUNK - 1) / CELL_CHUNK];
  return chunks.used[c / CELL_CHUNK] + bits.before[c / GROUP] + popcount(bits.used[c / GROUP] & ((1u << c % GROUP) - 1u));
}

// For every event: where its entries begin among those of all events, how many it keeps; then where these begin in the arena.
// `before(event)` is the number of entries of the events before.
template <class Before>
HLT_FN void place_entries(Team const& team, Batch const& batch, Results const& results, uint32_t per_word, Before before, uint64_t* base,
                          uint32_t* kept, uint32_t* offset) {
  for (uint32_t e = team.rank(); e < *batch.n_events; e += team.size()) {
    uint64_t const begin = before(e), n = before(e + 1) - begin, capacity = uint64_t(batch.payload_words[e]) * per_word;
    base[e] = begin;
    kept[e] = uint32_t(smaller(n, capacity));
    if (n > capacity) atomic_or(&results.flags[e], FLAG_TRACK_OVERFLOW);
  }
  team.sync();
  scan_events(team, batch, kept, offset);
}

// Item: the batch. First used cell of each event; those beyond an event's capacity are left out.
HLT_FN void place_used(Team const& team, uint32_t, TrackCuts const& cuts, Batch const& batch, Events const& events, CellBits const& bits,
                       CellChunks const& chunks, Results const& results) {
  scan_chunks(team, *batch.n_cell_chunks, chunks.used);
  place_entries(
      team, batch, results, cuts.used_cells_per_word,
      [&](uint32_t e) { return used_before(events.cell_offset[e], *batch.n_cells, bits, chunks); }, events.used_base, events.used,
      events.used_offset);
  if (team.rank() != 0) return;
  *batch.n_used = events.used_offset[*batch.n_events];
  *batch.n_used_groups = (*batch.n_used + GROUP - 1) / GROUP;
  *batch.n_used_chunks = (*batch.n_used + CHUNK - 1) / CHUNK;
}

// Does a track begin with a cell between these layers?
HLT_FN bool starts_tracks(Layers const& layers, LayerPairs const& pairs, uint32_t inner, uint32_t outer) {
  for (uint32_t pair = layers.first_pair[inner]; pair < layers.first_pair[inner + 1]; ++pair)
    if (pairs.outer[pair] == outer) return pairs.starts_tracks[pair] != 0;
  return false;
}

// Writes used cell c as the place-th of its event, with the used cells that continue it, and counts it at its outer hit.
// O(used cells that start there).
HLT_FN void write_used_cell(uint32_t c, Layers const& layers, LayerPairs const& pairs, TrackCuts const& cuts, Batch const& batch,
                            Events const& events, HitPoints const& points, HitCells const& info, Cells const& cells, CellBits const& bits,
                            CellLinks const& links, CellChunks const& chunks, UsedCells const& used, Endings const& endings) {
  uint32_t const inner = cells.inner[c], middle = cells.outer[c], event = info.event[inner], n_cells = *batch.n_cells;
  uint64_t const base = events.used_base[event], place = used_before(c, n_cells, bits, chunks) - base;
  uint32_t const kept = events.used[event], offset = events.used_offset[event];
  if (place >= kept) return;
  uint32_t const u = offset + uint32_t(place);
  uint64_t mask = 0, first = 0;
  uint32_t n_next = 0;
  if (bit_at(bits.linking, c)) {
    uint32_t const begin = info.begin[middle], end = begin + info.count[middle];
    first = used_before(begin, n_cells, bits, chunks) - base;
    uint64_t const last = smaller(used_before(end, n_cells, bits, chunks) - base, uint64_t(kept));
    n_next = first < last ? uint32_t(last - first) : 0;
    uint32_t const shift = mask_shift(info.count[middle]), next_shift = mask_shift(n_next);
    for (uint64_t rest = links.mask[c]; rest != 0; rest &= rest - 1) {
      uint32_t const group = begin + (lowest_bit(rest) << shift);
      for (uint32_t cell = group; cell < smaller(group + (1u << shift), end); ++cell) {
        if (shift != 0 && !(bit_at(bits.used, cell) && continues(inner, middle, cells.outer[cell], layers, cuts, points, info))) continue;
        uint64_t const next = used_before(cell, n_cells, bits, chunks) - base - first;
        if (next < n_next) mask |= uint64_t(1) << (next >> next_shift);
      }
    }
  }
  used.inner[u] = inner;
  used.outer[u] = middle;
  used.event[u] = event;
  used.first_next[u] = offset + uint32_t(first);
  used.n_next[u] = n_next;
  used.mask[u] = mask;
  used.state[u] = starts_tracks(layers, pairs, info.layer[inner], info.layer[middle]) ? CELL_STARTS : 0;
  used.longest[u] = 0;
  used.best[u] = NO_KEY;
  if (u % CHUNK == 0) chunks.tracks[u / CHUNK] = 0;
  atomic_add(&endings.n[middle], 1u);
}

// Item: 32 groups of 32 cells. Writes those that are used, in the order of all cells.
HLT_FN void write_used(WarpTeam const& team, uint32_t item, Layers const& layers, LayerPairs const& pairs, TrackCuts const& cuts,
                       Batch const& batch, Events const& events, HitPoints const& points, HitCells const& info, Cells const& cells,
                       CellBits const& bits, CellLinks const& links, CellChunks const& chunks, UsedCells const& used,
                       Endings const& endings) {
  uint32_t const end = smaller((item + 1) * GROUP, *batch.n_cell_groups);
  for (uint32_t g0 = item * GROUP; g0 < end; g0 += team.size()) {
    uint32_t const g = g0 + team.rank(), mask = g < end ? bits.used[g] : 0;
    team.share_out(popcount(mask), [&](uint32_t owner, uint32_t j, bool active) {
      uint32_t const c = (g0 + owner) * GROUP + nth_bit(team.from(owner, mask), j);
      if (active) write_used_cell(c, layers, pairs, cuts, batch, events, points, info, cells, bits, links, chunks, used, endings);
    });
  }
}

// The first of the cells that may continue used cell u, from the k-th on, that does; NONE after the last.
struct Continuations {
  Layers const& layers;
  TrackCuts const& cuts;
  HitPoints const& points;
  HitCells const& info;
  UsedCells const& used;
  HLT_FN uint32_t from(uint32_t u, uint32_t k) const {
    uint32_t const n = used.n_next[u], shift = mask_shift(n);
    for (uint64_t const mask = used.mask[u]; k < n; k = ((k >> shift) + 1) << shift) {
      uint64_t const rest = mask >> (k >> shift);
      if (rest == 0) return NONE;
      if ((rest & 1) == 0) k = ((k >> shift) + lowest_bit(rest)) << shift;
      if (shift == 0) return k;
      for (uint32_t const end = smaller(((k >> shift) + 1) << shift, n); k < end; ++k)
        if (continues(used.inner[u], used.outer[u], used.outer[used.first_next[u] + k], layers, cuts, points, info)) return k;
      --k;  // the last of its group
    }
    return NONE;
  }
};

// Item: an event. Places the lists of used cells by outer hit, from the event's first used cell on. O(hits).
HLT_FN void number_uses(Team const& team, uint32_t event, Events const& events, Endings const& endings) {
  uint32_t at = events.used_offset[event];
  for (uint32_t k0 = events.hit_offset[event]; k0 < events.hit_offset[event + 1]; k0 += team.size()) {
    uint32_t const k = k0 + team.rank();
    bool const active = k < events.hit_offset[event + 1];
    uint32_t total;
    uint32_t const first = at + team.exclusive_scan(active ? endings.n[k] : 0u, total);
    at += total;
    if (active) endings.first[k] = endings.cursor[k] = first;
  }
}

// Item: a used cell.
HLT_FN void group_uses(uint32_t u, UsedCells const& used, Endings const& endings, EndingCells const& ending) {
  ending.cell[atomic_add(&endings.cursor[used.outer[u]], 1u)] = u;
}

// Item: an entry of the lists of used cells by outer hit, so that neighbouring threads look at the same list. Two used cells that end at
// one hit, begin at different modules and point the same way are one particle seen by overlapping modules or neighbouring layers: the
// longer one goes (of equal ones the later). Whether a cell goes depends on the geometry alone, not on whether others went before.
// O(used cells at the outer hit).
HLT_FN void kill_duplicate_cells(uint32_t entry, TrackCuts const& cuts, SortedHits const& sorted, HitPoints const& points,
                                 UsedCells const& used, Endings const& endings, EndingCells const& ending) {
  uint32_t const u = ending.cell[entry];
  uint32_t const outer = used.outer[u], n = endings.n[outer], inner = used.inner[u];
  if (n < 2) return;
  uint32_t const first = endings.first[outer], module = sorted.module[inner];
  Point const o = point(points, outer), p = point(points, inner);
  float const x = p.x - o.x, y = p.y - o.y, z = p.z - o.z, length2 = x * x + y * y + z * z;
  for (uint32_t k = 0; k < n; ++k) {
    uint32_t const other = ending.cell[first + k], h = used.inner[other];
    if (sorted.module[h] == module) continue;
    Point const q = point(points, h);
    float const a = q.x - o.x, b = q.y - o.y, c = q.z - o.z, other2 = a * a + b * b + c * c;
    if (other2 > length2 || (other2 == length2 && other >= u)) continue;
    float const dot = x * a + y * b + z * c;
    if (dot * dot < cuts.min_alignment2 * length2 * other2) continue;
    used.state[u] |= CELL_KILLED;
    return;
  }
}

// Calls `found(path, cells)` for every path of living cells from `start` to an end, depth first in the order of cells, as long as it
// returns true. Returns false if it gave up after max_steps cells.
template <class Found>
HLT_FN bool for_each_path(uint32_t start, TrackCuts const& cuts, UsedCells const& used, Continuations const& continuations, Found found) {
  uint32_t path[MAX_TRACK_CELLS], next[MAX_TRACK_CELLS];
  bool leaf[MAX_TRACK_CELLS];
  uint32_t const max_cells = smaller(cuts.max_track_hits - 1, MAX_TRACK_CELLS);
  uint32_t depth = 0, steps = 0;
  path[0] = start;
  next[0] = 0;
  leaf[0] = true;
  while (true) {
    uint32_t const u = path[depth];
    bool pushed = false;
    if (depth + 1 < max_cells) {
      for (uint32_t k = continuations.from(u, next[depth]); k != NONE; k = continuations.from(u, k + 1)) {
        uint32_t const child = used.first_next[u] + k;
        if (used.state[child] & CELL_KILLED) continue;
        next[depth] = k + 1;
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
    if (leaf[depth] && depth + 2 >= cuts.min_track_hits && !found(path, depth + 1)) return true;
    if (depth == 0) return true;
    --depth;
  }
}

// Item: a used cell. Number of track candidates that start with it. O(steps).
HLT_FN void count_tracks(uint32_t u, Layers const& layers, TrackCuts const& cuts, HitPoints const& points, HitCells const& info,
                         UsedCells const& used, CellChunks const& chunks, Results const& results) {
  uint32_t n = 0;
  if (used.state[u] == CELL_STARTS && used.n_next[u] != 0) {
    bool const complete =
        for_each_path(u, cuts, used, {layers, cuts, points, info, used}, [&](uint32_t const*, uint32_t) { return ++n != 0; });
    if (!complete) atomic_or(&results.flags[used.event[u]], FLAG_TRACK_OVERFLOW);
  }
  used.tracks[u] = n;
  if (n != 0) atomic_add(&chunks.tracks[u / CHUNK], uint64_t(n));
}

// Item: a chunk of used cells. Candidates before each, counted within the chunk.
HLT_FN void number_tracks(Team const& team, uint32_t chunk, Batch const& batch, UsedCells const& used) {
  uint32_t const begin = chunk * CHUNK, end = smaller(begin + CHUNK, *batch.n_used);
  uint32_t at = 0;
  for (uint32_t u0 = begin; u0 < end; u0 += team.size()) {
    uint32_t const u = u0 + team.rank();
    uint32_t total;
    uint32_t const before = at + team.exclusive_scan(u < end ? used.tracks[u] : 0u, total);
    at += total;
    if (u < end) used.track_place[u] = before;
  }
}

// Candidates of the batch before used cell u.
HLT_FN uint64_t tracks_before(uint32_t u, uint32_t n_used, UsedCells const& used, CellChunks const& chunks) {
  return u < n_used ? chunks.tracks[u / CHUNK] + used.track_place[u] : chunks.tracks[(n_used + CHUNK - 1) / CHUNK];
}

// Item: the batch. First candidate of each event; candidates beyond an event's capacity are left out.
HLT_FN void place_tracks(Team const& team, uint32_t, TrackCuts const& cuts, Batch const& batch, Events const& events, UsedCells const& used,
                         CellChunks const& chunks, FitQueue const& queue, Results const& results) {
  scan_chunks(team, *batch.n_used_chunks, chunks.tracks);
  place_entries(
      team, batch, results, cuts.tracks_per_word,
      [&](uint32_t e) { return tracks_before(events.used_offset[e], *batch.n_used, used, chunks); }, events.track_base, results.ntuplets,
      events.track_offset);
  if (team.rank() != 0) return;
  *batch.n_tracks = events.track_offset[*batch.n_events];
  *batch.n_fit_groups = (*batch.n_tracks + FIT_GROUP - 1) / FIT_GROUP;
  *queue.n3 = *queue.n4 = *queue.n5 = *queue.n6 = 0;
}

HLT_FN void write_track(uint32_t t, uint32_t event, uint32_t const* path, uint32_t n_cells, SortedHits const& sorted, UsedCells const& used,
                        Tracks const& tracks) {
  tracks.event[t] = event;
  tracks.n_hits[t] = n_cells + 1;
  tracks.quality[t] = TRACK_BAD;
  tracks.score[t] = 0.f;
  tracks.hit_at(t, 0) = sorted.hit[used.inner[path[0]]];
  for (uint32_t k = 0; k < n_cells; ++k) {
    tracks.cell_at(t, k) = path[k];
    tracks.hit_at(t, k + 1) = sorted.hit[used.outer[path[k]]];
    atomic_max(&used.longest[path[k]], n_cells + 1);
  }
}

// Item: 32 used cells. Writes the candidates that start with them. Every thread of a warp looks for one candidate, so that neighbours
// write side by side; a single thread writes all that it comes across.
HLT_FN void fill_tracks(WarpTeam const& team, uint32_t item, Layers const& layers, TrackCuts const& cuts, Batch const& batch,
                        Events const& events, SortedHits const& sorted, HitPoints const& points, HitCells const& info,
                        UsedCells const& used, CellChunks const& chunks, Tracks const& tracks) {
  constexpr bool alone = WarpTeam::size() == 1;
  uint32_t const end = smaller((item + 1) * GROUP, *batch.n_used);
  for (uint32_t u0 = item * GROUP; u0 < end; u0 += team.size()) {
    uint32_t const u = smaller(u0 + team.rank(), end - 1), event = used.event[u], found = u == u0 + team.rank() ? used.tracks[u] : 0;
    uint64_t const place = tracks_before(u, *batch.n_used, used, chunks) - events.track_base[event];
    uint64_t const capacity = uint64_t(batch.payload_words[event]) * cuts.tracks_per_word;
    uint32_t const n = uint32_t(smaller(place + found, capacity) - smaller(place, capacity));
    uint32_t const first = events.track_offset[event] + uint32_t(smaller(place, capacity));
    team.share_out(alone ? smaller(n, 1u) : n, [&](uint32_t owner, uint32_t j, bool active) {
      uint32_t const start = team.from(owner, u), begin = team.from(owner, first), of = team.from(owner, event);
      uint32_t const stop = team.from(owner, n);
      if (!active) return;
      uint32_t i = 0;
      for_each_path(start, cuts, used, {layers, cuts, points, info, used}, [&](uint32_t const* path, uint32_t n_cells) {
        if (alone ? i < stop : i == j) write_track(begin + i, of, path, n_cells, sorted, used, tracks);
        ++i;
        return alone || i <= j;
      });
    });
  }
}

// Item: a track candidate. A candidate that shares a cell with a longer one is a duplicate and need not be fitted.
HLT_FN void drop_shorter_tracks(uint32_t t, UsedCells const& used, Tracks const& tracks) {
  uint32_t const n = tracks.n_hits[t];
  for (uint32_t k = 0; k + 1 < n; ++k)
    if (used.longest[tracks.cell_at(t, k)] > n) tracks.quality[t] = TRACK_DUPLICATE;
}

}  // namespace hlt
