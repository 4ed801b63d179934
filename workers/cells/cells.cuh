// cells: pairs of hits on two layers, compatible with a particle from the beam line. Cuts as in the Patatrack pixel reconstruction
// (Bocci et al., Front. Big Data 3 (2020) 601728), all of them data.
#pragma once
#include "hits/hits.cuh"

namespace hlt {

constexpr uint32_t PHI_BINS = 256;
constexpr uint32_t MASK_BITS = 64;
constexpr uint32_t HITS_PER_TEAM = 128;  // hits whose cells are written together
constexpr uint32_t CHUNK = 1024;         // cells whose entries are numbered together
constexpr uint32_t FLAG_DOUBLET_OVERFLOW = 1u << 9;

HLT_FN uint32_t phi_bin(int32_t phi) { return uint32_t(uint16_t(phi)) >> 8; }

// Order of hits within a layer: azimuth, then number.
HLT_FN bool phi_less(Hits const& hits, uint32_t a, uint32_t b) {
  int32_t const pa = uint16_t(hits.phi[a]), pb = uint16_t(hits.phi[b]);
  return pa < pb || (pa == pb && a < b);
}

// Item: a layer of an event. Counting sort by bin of azimuth, then every hit counts the members of its bin that come before it.
// O(hits + sum over bins of squares).
HLT_FN void sort_hits(Team const& team, uint32_t item, Detector const& det, CellCuts const& cuts, Layers const& layers,
                      ModuleClusters const& modules, Events const& events, Results const& results, Hits const& hits, HitCells const& info,
                      SortedHits const& sorted, PhiBins const& bins) {
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
    sorted.z[place] = hits.z[h];
    sorted.r[place] = hits.r[h];
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

// Do an inner hit and the sorted hit k of the outer layer form a cell?
HLT_FN bool makes_cell(CellCuts const& cuts, LayerPairs const& pairs, uint32_t pair, Inner const& in, SortedHits const& sorted,
                       uint32_t k) {
  int32_t const dphi = magnitude(int32_t(int16_t(in.phi - sorted.phi[k])));
  if (dphi > pairs.phi_cut[pair]) return false;
  float const zo = sorted.z[k], ro = sorted.r[k], dr = ro - in.r;
  if (!(dr >= 0.f) || dr > pairs.max_dr[pair]) return false;
  if (magnitude(in.z * ro - in.r * zo) > cuts.max_z0 * dr) return false;
  int32_t const so = sorted.size_y[k];
  if (in.size_y > 0) {
    int32_t const difference = pairs.max_size_difference[pair], deviation = pairs.max_size_deviation[pair];
    if (difference >= 0 && so > 0 && magnitude(so - in.size_y) > difference) return false;
    if (deviation >= 0) {
      float const slope = magnitude((in.z - zo) / (in.r - ro));
      if (!(slope < 1e6f)) return false;
      if (magnitude(in.size_y - int32_t(slope * cuts.size_y_per_slope + 0.5f)) > deviation) return false;
    }
  }
  // The circle through the beam line and both hits: dphi * 2R is the chord's bend.
  float const angle = float(dphi) * (3.14159265358979323846f / 32768.f);
  return angle * angle * (4.f * cuts.min_radius * cuts.min_radius - in.r * ro) <= dr * dr;
}

// The sorted hits of a layer within reach of a hit: one range, or two where the window wraps around, taken in order of azimuth.
struct Window {
  uint32_t begin[2], length[2];
  HLT_FN uint32_t size() const { return length[0] + length[1]; }
  HLT_FN uint32_t at(uint32_t i) const { return i < length[0] ? begin[0] + i : begin[1] + (i - length[0]); }
};

HLT_FN Window window(uint32_t const* edges, int32_t phi, int32_t cut) {
  uint32_t const low = phi_bin(phi - cut), high = phi_bin(phi + cut);
  if (low <= high) return {{edges[low], 0}, {edges[high + 1] - edges[low], 0}};
  return {{edges[0], edges[low]}, {edges[high + 1] - edges[0], edges[PHI_BINS] - edges[low]}};
}

// Calls `f(pair, window, slot)` for the layer pairs that a hit may start a cell in; `slot` is where the pair's mask is.
template <class F>
HLT_FN void for_each_window(uint32_t h, CellCuts const& cuts, Layers const& layers, LayerPairs const& pairs, Inner const& in,
                            HitCells const& info, PhiBins const& bins, F f) {
  uint32_t const layer = info.layer[h], event = info.event[h], first = layers.first_pair[layer];
  for (uint32_t pair = first; pair < layers.first_pair[layer + 1]; ++pair) {
    if (in.z < pairs.min_z[pair] || in.z > pairs.max_z[pair]) continue;
    if (in.size_y > 0 && in.size_y < pairs.min_size_y[pair]) continue;
    uint32_t const* const edges = bins.begin + (event * cuts.n_layers + pairs.outer[pair]) * (PHI_BINS + 1);
    f(pair, window(edges, in.phi, pairs.phi_cut[pair]), uint64_t(h) * cuts.pairs_per_layer + (pair - first));
  }
}

// Item: a hit. Number of cells that start at it; which of the first 64 hits of each window they end at. O(hits in the windows).
HLT_FN void count_cells(uint32_t h, CellCuts const& cuts, Layers const& layers, LayerPairs const& pairs, Hits const& hits,
                        HitCells const& info, SortedHits const& sorted, PhiBins const& bins, CellMasks const& masks) {
  Inner const in = {hits.z[h], hits.r[h], hits.phi[h], hits.size_y[h]};
  uint32_t const layer = info.layer[h];
  for (uint32_t slot = 0; slot < layers.first_pair[layer + 1] - layers.first_pair[layer]; ++slot)
    masks.bits[uint64_t(h) * cuts.pairs_per_layer + slot] = 0;
  uint32_t n = 0;
  for_each_window(h, cuts, layers, pairs, in, info, bins, [&](uint32_t pair, Window const& w, uint64_t slot) {
    uint64_t mask = 0;
    for (uint32_t i = 0, size = w.size(); i < size; ++i) {
      if (!makes_cell(cuts, pairs, pair, in, sorted, w.at(i))) continue;
      ++n;
      if (i < MASK_BITS) mask |= uint64_t(1) << i;
    }
    masks.bits[slot] = mask;
  });
  info.count[h] = n;
}

// Item: an event. First cell of each hit, counted within the event; the last cells are left out if there are too many. O(hits).
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
  *batch.n_hit_groups = (*batch.n_hits + HITS_PER_TEAM - 1) / HITS_PER_TEAM;
  *batch.n_chunks = (*batch.n_cells + CHUNK - 1) / CHUNK;
}

HLT_FN void write_cell(Cells const& cells, uint32_t c, uint32_t inner, uint32_t pair, SortedHits const& sorted, uint32_t k) {
  cells.inner[c] = inner;
  cells.outer[c] = sorted.hit[k];
  cells.pair[c] = pair;
  cells.outer_r[c] = sorted.r[k];
  cells.outer_z[c] = sorted.z[k];
}

// Writes the n cells of a hit, from place `begin` on.
HLT_FN void write_cells(uint32_t h, uint32_t begin, uint32_t n, CellCuts const& cuts, Layers const& layers, LayerPairs const& pairs,
                        Hits const& hits, HitCells const& info, SortedHits const& sorted, PhiBins const& bins, CellMasks const& masks,
                        Cells const& cells) {
  if (n == 0) return;
  Inner const in = {hits.z[h], hits.r[h], hits.phi[h], hits.size_y[h]};
  uint32_t done = 0;
  for_each_window(h, cuts, layers, pairs, in, info, bins, [&](uint32_t pair, Window const& w, uint64_t slot) {
    for (uint64_t rest = masks.bits[slot]; rest != 0 && done < n; rest &= rest - 1)
      write_cell(cells, begin + done++, h, pair, sorted, w.at(lowest_bit(rest)));
    for (uint32_t i = MASK_BITS, size = w.size(); i < size && done < n; ++i)
      if (makes_cell(cuts, pairs, pair, in, sorted, w.at(i))) write_cell(cells, begin + done++, h, pair, sorted, w.at(i));
  });
}

// Place of the j-th set bit.
HLT_FN uint32_t nth_bit(uint64_t mask, uint32_t j) {
  for (; j != 0; --j) mask &= mask - 1;
  return lowest_bit(mask);
}

// Item: 128 hits. Writes their cells. A team of threads shares out the cells rather than the hits, so that it writes in a row; hits with
// a wide window are written one by one, as on the CPU.
HLT_FN void fill_cells(Team const& team, uint32_t item, CellCuts const& cuts, Layers const& layers, LayerPairs const& pairs,
                       Batch const& batch, Events const& events, Hits const& hits, HitCells const& info, SortedHits const& sorted,
                       PhiBins const& bins, CellMasks const& masks, Cells const& cells) {
  uint32_t const first = item * HITS_PER_TEAM, last = smaller(first + HITS_PER_TEAM, *batch.n_hits);
  uint32_t* const begin = team.scratch();  // of the cells of each hit, and behind the last
  uint32_t wide = 0;
  for (uint32_t h = first + team.rank(); h < last; h += team.size()) {
    uint32_t const place = events.cell_offset[info.event[h]] + info.begin[h], n = info.count[h], layer = info.layer[h];
    info.begin[h] = place;
    if (team.size() == 1) {
      write_cells(h, place, n, cuts, layers, pairs, hits, info, sorted, bins, masks, cells);
      continue;
    }
    begin[h - first] = place;
    if (h + 1 == last) begin[last - first] = place + n;
    uint32_t known = 0;
    for (uint32_t slot = 0; slot < layers.first_pair[layer + 1] - layers.first_pair[layer]; ++slot)
      known += popcount(masks.bits[uint64_t(h) * cuts.pairs_per_layer + slot]);
    wide |= known < n;
  }
  if (team.size() == 1) return;
  uint32_t any;
  team.exclusive_scan(wide, any);
  if (any != 0) {
    for (uint32_t h = first + team.rank(); h < last; h += team.size())
      write_cells(h, begin[h - first], info.count[h], cuts, layers, pairs, hits, info, sorted, bins, masks, cells);
    return;
  }
  for (uint32_t c = begin[0] + team.rank(); c < begin[last - first]; c += team.size()) {
    uint32_t low = 0, high = last - first;  // the last hit that begins at or before c
    while (high - low > 1) {
      uint32_t const middle = (low + high) / 2;
      if (begin[middle] <= c) {
        low = middle;
      } else {
        high = middle;
      }
    }
    uint32_t const h = first + low, layer = info.layer[h];
    uint32_t j = c - begin[low], pair = layers.first_pair[layer];
    uint64_t mask = masks.bits[uint64_t(h) * cuts.pairs_per_layer];
    for (uint32_t n = popcount(mask); j >= n; n = popcount(mask)) {
      j -= n;
      ++pair;
      mask = masks.bits[uint64_t(h) * cuts.pairs_per_layer + (pair - layers.first_pair[layer])];
    }
    uint32_t const* const edges = bins.begin + (info.event[h] * cuts.n_layers + pairs.outer[pair]) * (PHI_BINS + 1);
    write_cell(cells, c, h, pair, sorted, window(edges, hits.phi[h], pairs.phi_cut[pair]).at(nth_bit(mask, j)));
  }
}

}  // namespace hlt
