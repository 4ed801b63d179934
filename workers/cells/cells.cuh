// cells: pairs of hits on two layers, compatible with a particle from the beam line. Cuts as in the Patatrack pixel reconstruction
// (Bocci et al., Front. Big Data 3 (2020) 601728), all of them data.
#pragma once
#include "hits/hits.cuh"

namespace hlt {

constexpr uint32_t PHI_BINS = 1024;
constexpr uint32_t MASK_BITS = 64, MASK_WORDS = 4;
// Masks of longer lists have a bit for every 2, 4, ... neighbours; this many, as a shift.
HLT_FN uint32_t mask_shift(uint32_t n) {
  uint32_t shift = 0;
  while (n > MASK_BITS << shift) ++shift;
  return shift;
}
constexpr uint32_t LINK_GROUP = 512;   // cells that a warp links together
constexpr uint32_t CELL_CHUNK = 4096;  // cells among which the used ones are numbered together
constexpr uint32_t FLAG_DOUBLET_OVERFLOW = 1u << 9;

// Position of a hit in one piece: 16 bytes that are read together.
struct alignas(16) Point {
  float x, y, z, r;
};
HLT_FN Point point(HitPoints const& points, uint32_t k) { return reinterpret_cast<Point const*>(points.value)[k]; }

HLT_FN uint32_t phi_bin(int32_t phi) { return uint32_t(uint16_t(phi)) / (65536 / PHI_BINS); }

// Order of hits within a layer: azimuth, then number.
HLT_FN bool phi_less(Hits const& hits, uint32_t a, uint32_t b) {
  int32_t const pa = uint16_t(hits.phi[a]), pb = uint16_t(hits.phi[b]);
  return pa < pb || (pa == pb && a < b);
}

// Item: a layer of an event. Counting sort by bin of azimuth, then every hit counts the members of its bin that come before it.
// O(hits + sum over bins of squares).
HLT_FN void sort_hits(Team const& team, uint32_t item, Detector const& det, CellCuts const& cuts, Layers const& layers,
                      ModuleClusters const& modules, Events const& events, Results const& results, Hits const& hits, HitCells const& info,
                      SortedHits const& sorted, HitPoints const& points, PhiBins const& bins) {
  uint32_t const event = item / cuts.n_layers, layer = item % cuts.n_layers;
  uint32_t const limit = results.hits[event], offset = events.hit_offset[event];
  uint32_t const row = event * det.n_modules;
  auto const first_hit = [&](uint32_t module) { return module < det.n_modules ? smaller(modules.hit_begin[row + module], limit) : limit; };
  uint32_t const first = first_hit(layers.first_module[layer]), last = first_hit(layers.first_module[layer + 1]);
  uint32_t const begin = offset + first, end = offset + last;
  uint32_t* const counts = team.scratch();
  uint32_t* const cursor = team.scratch() + PHI_BINS;
  uint32_t* const edges = bins.begin + item * (PHI_BINS + 1);

  for (uint32_t h = begin + team.rank(); h < end; h += team.size()) {
    info.event[h] = event;
    info.layer[h] = layer;
    atomic_add(&counts[phi_bin(hits.phi[h])], 1u);
  }
  team.sync();
  uint32_t at = begin;
  for (uint32_t b0 = 0; b0 < PHI_BINS; b0 += team.size()) {
    uint32_t const b = b0 + team.rank();
    uint32_t total;
    uint32_t const place = at + team.exclusive_scan(b < PHI_BINS ? counts[b] : 0u, total);
    at += total;
    if (b < PHI_BINS) edges[b] = cursor[b] = place;
  }
  if (team.rank() == 0) edges[PHI_BINS] = end;
  team.sync();
  for (uint32_t h = begin + team.rank(); h < end; h += team.size()) sorted.unsorted[atomic_add(&cursor[phi_bin(hits.phi[h])], 1u)] = h;
  team.sync();
  for (uint32_t k = begin + team.rank(); k < end; k += team.size()) {
    uint32_t const h = sorted.unsorted[k], b = phi_bin(hits.phi[h]);
    uint32_t place = edges[b];
    for (uint32_t j = edges[b]; j < edges[b + 1]; ++j) place += phi_less(hits, sorted.unsorted[j], h);
    sorted.hit[place] = h;
    sorted.phi[place] = hits.phi[h];
    sorted.size_y[place] = hits.size_y[h];
    sorted.module[place] = hits.module[h];
    sorted.z[place] = hits.z[h];
    sorted.r[place] = hits.r[h];
    reinterpret_cast<Point*>(points.value)[place] = {hits.x[h], hits.y[h], hits.z[h], hits.r[h]};
  }
  for (uint32_t b = team.rank(); b < PHI_BINS; b += team.size()) counts[b] = 0;
  team.sync();
  for (uint32_t b = team.rank(); b < PHI_BINS; b += team.size()) cursor[b] = 0;
}

HLT_FN float magnitude(float v) { return v < 0.f ? -v : v; }
HLT_FN int32_t magnitude(int32_t v) { return v < 0 ? -v : v; }

// What the search knows of its inner hit.
struct Inner {
  float z, r;
  int32_t phi, size_y;
};

// The cuts of a layer pair.
struct PairCuts {
  float max_dr, max_z0, size_y_per_slope, min_diameter2;
  int32_t phi, size_difference, size_deviation;
  HLT_FN PairCuts(CellCuts const& cuts, LayerPairs const& pairs, uint32_t pair)
      : max_dr(pairs.max_dr[pair]),
        max_z0(cuts.max_z0),
        size_y_per_slope(cuts.size_y_per_slope),
        min_diameter2(4.f * cuts.min_radius * cuts.min_radius),
        phi(pairs.phi_cut[pair]),
        size_difference(pairs.max_size_difference[pair]),
        size_deviation(pairs.max_size_deviation[pair]) {}
};

// Do an inner hit and the sorted hit k of the outer layer form a cell? Without branches on the hits, so that the threads of a warp, or
// the lanes of a vector, stay together. `SLOPES`: whether the pair has a cut on the slope that the inner hit's size tells.
template <bool SLOPES>
HLT_FN uint32_t is_cell(PairCuts const& cuts, Inner const& in, int32_t phi, int32_t so, float zo, float ro) {
  int32_t const dphi = magnitude(int32_t(int16_t(in.phi - phi)));
  float const dr = ro - in.r;
  uint32_t good = uint32_t(dphi <= cuts.phi) & uint32_t(dr >= 0.f) & uint32_t(dr <= cuts.max_dr);
  good &= uint32_t(!(magnitude(in.z * ro - in.r * zo) > cuts.max_z0 * dr));
  good &= uint32_t(in.size_y <= 0) | uint32_t(cuts.size_difference < 0) | uint32_t(so <= 0) |
          uint32_t(magnitude(so - in.size_y) <= cuts.size_difference);
  if (SLOPES) {
    float const slope = magnitude((in.z - zo) / (in.r - ro));
    uint32_t const finite = uint32_t(slope < 1e6f);
    int32_t const expected = int32_t((finite ? slope : 0.f) * cuts.size_y_per_slope + 0.5f);
    good &= uint32_t(in.size_y <= 0) | (finite & uint32_t(magnitude(in.size_y - expected) <= cuts.size_deviation));
  }
  // The circle through the beam line and both hits: dphi * 2R is the chord's bend.
  float const angle = float(dphi) * (3.14159265358979323846f / 32768.f);
  return good & uint32_t(angle * angle * (cuts.min_diameter2 - in.r * ro) <= dr * dr);
}

HLT_FN bool makes_cell(PairCuts const& cuts, Inner const& in, SortedHits const& sorted, uint32_t k) {
  int32_t const phi = read_only(sorted.phi, k), size_y = read_only(sorted.size_y, k);
  float const z = read_only(sorted.z, k), r = read_only(sorted.r, k);
  return (cuts.size_deviation >= 0 ? is_cell<true>(cuts, in, phi, size_y, z, r) : is_cell<false>(cuts, in, phi, size_y, z, r)) != 0;
}

// Which of the n <= 32 sorted hits from `first` on form a cell. The compiler makes vectors of this loop: neighbours in memory, no
// branches, results of the width of the coordinates.
template <bool SLOPES>
HLT_FN uint32_t cells_in_a_row(PairCuts const& cuts, Inner const& in, SortedHits const& sorted, uint32_t first, uint32_t n) {
  int16_t const *const phi = sorted.phi + first, *const size_y = sorted.size_y + first;
  float const *const z = sorted.z + first, *const r = sorted.r + first;
  uint32_t mask = 0;
  for (uint32_t i = 0; i < n; ++i) mask |= is_cell<SLOPES>(cuts, in, phi[i], size_y[i], z[i], r[i]) << i;
  return mask;
}

// The sorted hits of a layer within reach of a hit: one range, or two where the window wraps around, taken in order of azimuth.
// They are looked at by words of up to 64 that follow one another.
struct Window {
  uint32_t begin[2], length[2];
  HLT_FN uint32_t words() const { return (length[0] + MASK_BITS - 1) / MASK_BITS + (length[1] + MASK_BITS - 1) / MASK_BITS; }
  HLT_FN uint32_t first_of(uint32_t word) const {
    uint32_t const at = word * MASK_BITS;
    return at < length[0] ? begin[0] + at : begin[1] + at - (length[0] + MASK_BITS - 1) / MASK_BITS * MASK_BITS;
  }
  HLT_FN uint32_t size_of(uint32_t word) const {
    uint32_t const at = word * MASK_BITS, whole = (length[0] + MASK_BITS - 1) / MASK_BITS * MASK_BITS;
    if (at < length[0]) return smaller(length[0] - at, MASK_BITS);
    return at - whole < length[1] ? smaller(length[1] - (at - whole), MASK_BITS) : 0;
  }
};

HLT_FN Window window(uint32_t const* edges, int32_t phi, int32_t cut) {
  uint32_t const low = phi_bin(phi - cut), high = phi_bin(phi + cut);
  if (low <= high) return {{edges[low], 0}, {edges[high + 1] - edges[low], 0}};
  return {{edges[0], edges[low]}, {edges[high + 1] - edges[0], edges[PHI_BINS] - edges[low]}};
}

// Window of the sorted hit k in the outer layer of a pair; nothing if the pair is not for such a hit.
HLT_FN Window window_of(CellCuts const& cuts, LayerPairs const& pairs, uint32_t pair, uint32_t event, Inner const& in,
                        PhiBins const& bins) {
  if (in.z < pairs.min_z[pair] || in.z > pairs.max_z[pair] || (in.size_y > 0 && in.size_y < pairs.min_size_y[pair]))
    return {{0, 0}, {0, 0}};
  return window(bins.begin + (event * cuts.n_layers + pairs.outer[pair]) * (PHI_BINS + 1), in.phi, pairs.phi_cut[pair]);
}

HLT_FN Inner inner_of(SortedHits const& sorted, uint32_t k) { return {sorted.z[k], sorted.r[k], sorted.phi[k], sorted.size_y[k]}; }

// Masks lie by pair and word, then hit: hits that follow one another have theirs next to one another.
HLT_FN uint64_t& mask_at(CellMasks const& masks, SortedHits const& sorted, uint32_t slot, uint32_t word, uint32_t k) {
  return masks.bits[(slot * MASK_WORDS + word) * uint64_t(sorted.capacity) + k];
}

// Which of n <= 64 sorted hits, from `first` on, form a cell with a hit. A warp shares out the hits of all its threads, two to a thread:
// the windows of neighbours are of very different size, but begin at nearly the same place. `masks`: two words of team memory a thread.
HLT_FN uint64_t search(WarpTeam const& team, PairCuts const& cuts, Inner const& in, SortedHits const& sorted, uint32_t first, uint32_t n,
                       uint32_t* masks) {
  if (WarpTeam::size() == 1) {
    uint64_t mask = 0;
    bool const slopes = cuts.size_deviation >= 0 && in.size_y > 0;
    for (uint32_t i = 0; i < n; i += 32) {
      uint32_t const m = smaller(n - i, 32u);
      uint32_t const found =
          slopes ? cells_in_a_row<true>(cuts, in, sorted, first + i, m) : cells_in_a_row<false>(cuts, in, sorted, first + i, m);
      mask |= uint64_t(found) << i;
    }
    return mask;
  }
  uint32_t const bend = uint32_t(uint16_t(in.phi)) << 16 | uint16_t(in.size_y);
  team.share_out((n + 1) / 2, [&](uint32_t owner, uint32_t half, bool active) {
    uint32_t const begin = team.from(owner, first), packed = team.from(owner, bend), size = team.from(owner, n), i = 2 * half;
    Inner const inner = {team.from(owner, in.z), team.from(owner, in.r), int16_t(packed >> 16), int16_t(packed)};
    if (!active) return;
    bool const a = makes_cell(cuts, inner, sorted, begin + i);
    bool const b = makes_cell(cuts, inner, sorted, begin + i + 1) & (i + 1 < size);  // there is room behind the last hit
    if (a | b) atomic_or(&masks[2 * owner + i / 32], (uint32_t(a) | uint32_t(b) << 1) << i % 32);
  });
  team.sync();
  uint64_t const mask = uint64_t(masks[2 * team.rank() + 1]) << 32 | masks[2 * team.rank()];
  masks[2 * team.rank()] = masks[2 * team.rank() + 1] = 0;
  team.sync();
  return mask;
}

// Item: 32 sorted hits. Which hits of the first four words of each of their windows form a cell with them; number of cells of each.
// O(hits in the windows).
HLT_FN void count_cells(WarpTeam const& team, uint32_t item, CellCuts const& cuts, Layers const& layers, LayerPairs const& pairs,
                        Batch const& batch, HitCells const& info, SortedHits const& sorted, PhiBins const& bins, CellMasks const& masks) {
  uint32_t const end = smaller((item + 1) * GROUP, *batch.n_hits);
  for (uint32_t k0 = item * GROUP; k0 < end; k0 += team.size()) {
    uint32_t const k = smaller(k0 + team.rank(), end - 1), event = info.event[k], layer = info.layer[k];
    bool const mine = k == k0 + team.rank();
    Inner const in = inner_of(sorted, k);
    uint32_t cells = 0;
    for (uint32_t left = team.ballot(mine); left != 0;) {  // layer by layer: mostly there is but one
      uint32_t const current = team.from(lowest_bit(left), layer), first = layers.first_pair[current];
      for (uint32_t pair = first; pair < layers.first_pair[current + 1]; ++pair) {
        Window const w = mine && layer == current ? window_of(cuts, pairs, pair, event, in, bins) : Window{{0, 0}, {0, 0}};
        PairCuts const pair_cuts(cuts, pairs, pair);
        for (uint32_t word = 0; team.any(word < w.words()); ++word) {
          uint32_t const n = w.size_of(word);
          uint64_t const mask = search(team, pair_cuts, in, sorted, w.first_of(word), n, team.scratch());
          if (n != 0 && word < MASK_WORDS) mask_at(masks, sorted, pair - first, word, k) = mask;
          cells += popcount(mask);
        }
      }
      left &= ~team.ballot(layer == current);
    }
    if (mine) info.count[k] = cells;
  }
}

// Item: an event. First cell of each sorted hit, counted within the event; the last cells are left out if there are too many. O(hits).
HLT_FN void number_cells(Team const& team, uint32_t event, CellCuts const& cuts, Batch const& batch, Events const& events,
                         HitCells const& info, Results const& results) {
  uint32_t const begin = events.hit_offset[event], end = events.hit_offset[event + 1];
  uint64_t const capacity = uint64_t(batch.payload_words[event]) * cuts.cells_per_word;
  uint64_t at = 0;
  for (uint32_t h0 = begin; h0 < end; h0 += team.size()) {
    uint32_t const h = h0 + team.rank();
    uint64_t total;
    uint64_t const count = h < end ? info.count[h] : 0;
    uint64_t const place = at + team.exclusive_scan(count, total);
    at += total;
    if (h < end) {
      info.begin[h] = uint32_t(smaller(place, capacity));
      info.count[h] = uint32_t(smaller(place + count, capacity) - smaller(place, capacity));
    }
  }
  if (team.rank() == 0) {
    results.doublets[event] = uint32_t(smaller(at, capacity));
    if (at > capacity) atomic_or(&results.flags[event], FLAG_DOUBLET_OVERFLOW);
  }
}

// Item: the batch. First cell of each event.
HLT_FN void place_cells(Team const& team, uint32_t, Batch const& batch, Events const& events, Results const& results) {
  scan_events(team, batch, results.doublets, events.cell_offset);
  if (team.rank() != 0) return;
  *batch.n_cells = events.cell_offset[*batch.n_events];
  *batch.n_cell_groups = (*batch.n_cells + GROUP - 1) / GROUP;
  *batch.n_link_groups = (*batch.n_cells + LINK_GROUP - 1) / LINK_GROUP;
  *batch.n_cell_blocks = (*batch.n_cell_groups + GROUP - 1) / GROUP;
  *batch.n_cell_chunks = (*batch.n_cells + CELL_CHUNK - 1) / CELL_CHUNK;
}

HLT_FN void write_cell(Cells const& cells, CellBits const& bits, uint32_t c, uint32_t inner, SortedHits const& sorted, uint32_t k) {
  cells.inner[c] = inner;
  cells.outer[c] = k;
  cells.outer_r[c] = read_only(sorted.r, k);
  cells.outer_z[c] = read_only(sorted.z, k);
  if (c % GROUP == 0) bits.used[c / GROUP] = bits.linking[c / GROUP] = 0;
}

// The masks of a thread's hit that are not empty, in team memory: entry e of thread t is at e * team size + t.
constexpr uint32_t FILL_ENTRIES = 8;
struct FillEntries {
  uint64_t* mask;
  uint32_t* position;  // of bit 0 among the sorted hits
  uint32_t size;
  HLT_FN FillEntries(WarpTeam const& team)
      : mask(reinterpret_cast<uint64_t*>(team.scratch())), position(team.scratch() + 2 * FILL_ENTRIES * GROUP), size(team.size()) {}
};

// Item: 32 sorted hits. Writes their cells: by inner hit, layer pair, azimuth. A warp shares out the cells rather than the hits, so that
// neighbours write side by side.
HLT_FN void fill_cells(WarpTeam const& team, uint32_t item, CellCuts const& cuts, Layers const& layers, LayerPairs const& pairs,
                       Batch const& batch, Events const& events, HitCells const& info, SortedHits const& sorted, PhiBins const& bins,
                       CellMasks const& masks, Cells const& cells, CellBits const& bits) {
  FillEntries const entries(team);
  uint32_t const end_of_hits = smaller((item + 1) * GROUP, *batch.n_hits);
  for (uint32_t k0 = item * GROUP; k0 < end_of_hits; k0 += team.size()) {
    uint32_t const rank = team.rank(), k = smaller(k0 + rank, end_of_hits - 1), event = info.event[k], layer = info.layer[k];
    bool const mine = k == k0 + rank;
    uint32_t at = events.cell_offset[event] + info.begin[k];
    uint32_t const end = at + (mine ? info.count[k] : 0u);
    if (mine) info.begin[k] = at;
    Inner const in = inner_of(sorted, k);
    uint32_t n_entries = 0, known = 0;  // of this hit: waiting, and their cells
    auto const write = [&]() {
      team.sync();
      uint32_t const n = smaller(known, end - at);
      if (WarpTeam::size() == 1) {
        uint32_t c = at;
        for (uint32_t e = 0; e < n_entries; ++e)
          for (uint64_t rest = entries.mask[e]; rest != 0 && c < end; rest &= rest - 1)
            write_cell(cells, bits, c++, k, sorted, entries.position[e] + lowest_bit(rest));
        at = c;
        n_entries = known = 0;
        return;
      }
      team.share_out(n, [&](uint32_t owner, uint32_t j, bool active) {
        uint32_t const c = team.from(owner, at) + j, inner = team.from(owner, k);
        if (!active) return;
        uint32_t e = owner;
        uint64_t mask = entries.mask[e];
        for (uint32_t m = popcount(mask); j >= m; m = popcount(mask)) {
          j -= m;
          e += entries.size;
          mask = entries.mask[e];
        }
        write_cell(cells, bits, c, inner, sorted, entries.position[e] + nth_bit(mask, j));
      });
      at += n;
      n_entries = known = 0;
      team.sync();
    };
    for (uint32_t left = team.ballot(mine); left != 0;) {  // layer by layer: mostly there is but one
      uint32_t const current = team.from(lowest_bit(left), layer), first = layers.first_pair[current];
      for (uint32_t pair = first; pair < layers.first_pair[current + 1]; ++pair) {
        Window const w = layer == current && at + known < end ? window_of(cuts, pairs, pair, event, in, bins) : Window{{0, 0}, {0, 0}};
        for (uint32_t word = 0; team.any(word < w.words()); ++word) {
          uint32_t const n = w.size_of(word), begin = w.first_of(word);
          uint64_t mask = 0;
          if (word < MASK_WORDS) {
            if (n != 0) mask = mask_at(masks, sorted, pair - first, word, k);
          } else {
            mask = search(team, PairCuts(cuts, pairs, pair), in, sorted, begin, n, team.scratch() + 3 * FILL_ENTRIES * GROUP);
          }
          if (mask != 0) {
            entries.mask[n_entries * entries.size + rank] = mask;
            entries.position[n_entries++ * entries.size + rank] = begin;
            known += popcount(mask);
          }
          if (team.any(n_entries == FILL_ENTRIES)) write();
        }
      }
      left &= ~team.ballot(layer == current);
    }
    write();
    team.sync();
    for (uint32_t e = 0; e < FILL_ENTRIES; ++e) entries.mask[e * entries.size + rank] = entries.position[e * entries.size + rank] = 0;
  }
}

}  // namespace hlt
