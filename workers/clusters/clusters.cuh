// clusters: connected groups of pixels per module, found on a bit raster of the module.
//
// The raster gives every distinct pixel its rank in raster order by counting bits, so that digis come out sorted without a sort,
// neighbours are bit tests, and no event can make the work more than linear in its pixels. Connected components: union-find whose
// root is the smallest member (hooking by atomic minimum), which makes the result independent of the order of unions;
// see Jaiganesh and Burtscher, HPDC 2018, for the scheme on GPUs.
#pragma once
#include "unpack/unpack.cuh"

namespace hlt {

// The raster in team memory: bits of the pixels, number of set bits before each word, and a summary with one bit per non-zero word.
struct Raster {
  uint32_t* bits;
  uint32_t* before;
  uint32_t* summary;

  HLT_FN Raster(uint32_t* memory, uint32_t words) : bits(memory), before(memory + words), summary(memory + 2 * words) {}
  HLT_FN bool has(uint32_t position) const { return bits[position >> 5] >> (position & 31u) & 1u; }
  HLT_FN uint32_t rank(uint32_t position) const {
    return before[position >> 5] + popcount(bits[position >> 5] & ((1u << (position & 31u)) - 1u));
  }
};

HLT_FN uint32_t find_root(uint32_t const* parent, uint32_t i) {
  for (uint32_t p = fresh(&parent[i]); p != i; p = fresh(&parent[i])) i = p;
  return i;
}

HLT_FN void unite(uint32_t* parent, uint32_t a, uint32_t b) {
  a = find_root(parent, a);
  b = find_root(parent, b);
  while (a != b) {
    uint32_t const low = smaller(a, b), high = larger(a, b);
    uint32_t const old = atomic_min(&parent[high], low);
    if (old == high) return;
    a = find_root(parent, old);
    b = find_root(parent, low);
  }
}

// Saturating sum of charges, each at most MAX_CHARGE; order-free because charges are not negative.
HLT_FN void add_charge(uint32_t* sum, uint32_t charge) {
#if defined(__CUDACC__)
  uint32_t seen = *sum, expected;
  do {
    expected = seen;
    seen = atomicCAS(sum, expected, smaller(expected + charge, MAX_CHARGE));
  } while (seen != expected);
#else
  *sum = smaller(*sum + charge, MAX_CHARGE);
#endif
}

// Marks the pixels and counts bits; returns the number of distinct pixels.
HLT_FN uint32_t fill_raster(Team const& team, Raster const& raster, uint32_t summary_words, uint32_t const* positions, uint32_t n) {
  for (uint32_t i = team.rank(); i < n; i += team.size()) {
    uint32_t const p = positions[i];
    atomic_or(&raster.bits[p >> 5], 1u << (p & 31u));
    atomic_or(&raster.summary[p >> 10], 1u << (p >> 5 & 31u));
  }
  team.sync();
  uint32_t distinct = 0;
  for (uint32_t first = 0; first < summary_words; first += team.size()) {
    uint32_t const s = first + team.rank();
    uint32_t const used = s < summary_words ? raster.summary[s] : 0;
    uint32_t count = 0;
    for (uint32_t rest = used; rest; rest &= rest - 1) count += popcount(raster.bits[32 * s + lowest_bit(rest)]);
    uint32_t total;
    uint32_t before = distinct + team.exclusive_scan(count, total);
    distinct += total;
    for (uint32_t rest = used; rest; rest &= rest - 1) {
      uint32_t const w = 32 * s + lowest_bit(rest);
      raster.before[w] = before;
      before += popcount(raster.bits[w]);
    }
  }
  team.sync();
  return distinct;
}

// Item: a module of an event. O(pixels of the module), times the inverse Ackermann function.
HLT_FN void cluster_module(Team const& team, uint32_t item, Detector const& det, ModuleTable const& table, ModulePixels const& modules,
                           Pixels const& pixels, Digis const& digis, Clusters const& clusters, ModuleClusters const& out,
                           Results const& results) {
  uint32_t const n_words = modules.count[item];
  if (n_words == 0) {
    if (team.rank() == 0) out.digis[item] = out.kept[item] = 0;
    return;
  }
  uint32_t const begin = modules.begin[item], event = item / det.n_modules, module = item % det.n_modules;
  uint32_t const col_step = det.column_words * 32;
  Raster const raster(team.scratch(), det.raster_words);
  uint32_t const* const word_position = pixels.position + begin;
  uint32_t* const position = digis.position + begin;
  uint32_t* const charge = digis.charge + begin;
  uint32_t* const root = digis.root + begin;

  uint32_t const n = fill_raster(team, raster, (det.raster_words + 31) / 32, word_position, n_words);

  // One digi per distinct pixel, at its rank.
  for (uint32_t d = team.rank(); d < n; d += team.size()) {
    charge[d] = 0;
    root[d] = d;
  }
  team.sync();
  for (uint32_t i = team.rank(); i < n_words; i += team.size()) {
    uint32_t const d = raster.rank(word_position[i]);
    position[d] = word_position[i];
    if (n == n_words) {
      charge[d] = pixels.charge[begin + i];
    } else {
      add_charge(&charge[d], pixels.charge[begin + i]);
    }
  }
  team.sync();

  // Connect each digi with the neighbours that come later in the raster: next row, and three in the next column.
  for (uint32_t d = team.rank(); d < n; d += team.size()) {
    uint32_t const p = position[d], row = p % col_step, col = p / col_step;
    if (row + 1 < det.rows && raster.has(p + 1)) unite(root, d, d + 1);
    if (col + 1 < det.cols) {
      uint32_t const last = smaller(row + 1, det.rows - 1);
      for (uint32_t r = row > 0 ? row - 1 : 0; r <= last; ++r) {
        uint32_t const q = (col + 1) * col_step + r;
        if (raster.has(q)) unite(root, d, raster.rank(q));
      }
    }
  }
  team.sync();

  // The raster has done its work: leave it as it was found, and point every digi at its root.
  for (uint32_t i = team.rank(); i < n; i += team.size()) {
    uint32_t const p = position[i];
    raster.bits[p >> 5] = 0;
    raster.before[p >> 5] = 0;
    raster.summary[p >> 10] = 0;
    uint32_t const c = begin + i;
    uint32_t const row = p % col_step, col = p / col_step;
    clusters.min_row[c] = clusters.max_row[c] = row;
    clusters.min_col[c] = clusters.max_col[c] = col;
    clusters.charge[c] = clusters.first_row_charge[c] = clusters.last_row_charge[c] = 0;
    clusters.first_col_charge[c] = clusters.last_col_charge[c] = 0;
    uint32_t const top = find_root(root, i);
    atomic_min(&root[i], top);
  }
  team.sync();

  for (uint32_t i = team.rank(); i < n; i += team.size()) {
    uint32_t const c = begin + root[i], row = position[i] % col_step, col = position[i] / col_step;
    atomic_min(&clusters.min_row[c], row);
    atomic_max(&clusters.max_row[c], row);
    atomic_min(&clusters.min_col[c], col);
    atomic_max(&clusters.max_col[c], col);
    atomic_add(&clusters.charge[c], uint64_t(charge[i]));
  }
  team.sync();

  for (uint32_t i = team.rank(); i < n; i += team.size()) {
    uint32_t const c = begin + root[i], row = position[i] % col_step, col = position[i] / col_step;
    uint64_t const q = charge[i];
    if (row == clusters.min_row[c]) atomic_add(&clusters.first_row_charge[c], q);
    if (row == clusters.max_row[c]) atomic_add(&clusters.last_row_charge[c], q);
    if (col == clusters.min_col[c]) atomic_add(&clusters.first_col_charge[c], q);
    if (col == clusters.max_col[c]) atomic_add(&clusters.last_col_charge[c], q);
  }

  // Number the clusters that are kept by their first digi.
  uint32_t kept = 0;
  for (uint32_t first = 0; first < n; first += team.size()) {
    uint32_t const i = first + team.rank();
    bool const keep = i < n && root[i] == i && clusters.charge[begin + i] > table.min_cluster_charge[module];
    uint32_t total;
    uint32_t const rank = kept + team.exclusive_scan(uint32_t(keep), total);
    kept += total;
    if (i < n) clusters.rank[begin + i] = keep ? rank : NONE;
  }
  if (team.rank() == 0) {
    out.digis[item] = n;
    out.kept[item] = kept;
    atomic_add(&results.pixels[event], n);
    if (n != n_words) atomic_or(&results.flags[event], FLAG_DUPLICATE_PIXEL);
  }
}

}  // namespace hlt
