// clusters: connected groups of pixels per module. Most modules have few pixels: these are sorted by counting and connected in team
// memory. The others, and those that read a pixel twice, go through a bit raster of the module, so that no event can make the work
// more than linear in its pixels.
//
// The raster gives every distinct pixel its rank in raster order by counting bits, so that digis come out sorted without a sort and
// neighbours are bit tests. Connected components: union-find whose root is the smallest member (hooking by atomic minimum), which makes
// the result independent of the order of unions; see Jaiganesh and Burtscher, HPDC 2018, for the scheme on GPUs.
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

// Digis know the number of their cluster within the module; their part of the event's digest.
HLT_FN uint64_t digest_digi(uint32_t module, uint32_t position, uint32_t charge, uint32_t cluster) {
  return mix(mix(uint64_t(module) << 32 | position, uint64_t(charge) << 32 | cluster));
}

// Extent and charge of a cluster, and the charges of its outermost rows and columns.
struct Extent {
  uint32_t min_row, max_row, min_col, max_col;
  uint64_t charge, first_row, last_row, first_col, last_col;
};

HLT_FN void write_cluster(Clusters const& clusters, uint32_t c, Extent const& e) {
  clusters.min_row[c] = e.min_row;
  clusters.max_row[c] = e.max_row;
  clusters.min_col[c] = e.min_col;
  clusters.max_col[c] = e.max_col;
  clusters.charge[c] = e.charge;
  clusters.first_row_charge[c] = e.first_row;
  clusters.last_row_charge[c] = e.last_row;
  clusters.first_col_charge[c] = e.first_col;
  clusters.last_col_charge[c] = e.last_col;
}

constexpr uint32_t SMALL_MODULE = 256;  // pixels of a module that is clustered in team memory

// Pixels of a small module in team memory, in raster order.
struct SmallModule {
  uint32_t* place;   // column << 16 | row
  uint32_t* charge;  // electrons
  uint32_t* root;    // first pixel of the cluster
  uint32_t* member;  // before: keys of the sort; of a root: one of its pixels; after: number of the cluster, NONE if it is not kept
  uint32_t* next;    // another pixel of the cluster, or NONE
  uint32_t* roots;   // of all clusters
  uint32_t n;
  HLT_FN SmallModule(uint32_t* memory, uint32_t pixels)
      : place(memory),
        charge(memory + SMALL_MODULE),
        root(memory + 2 * SMALL_MODULE),
        member(memory + 3 * SMALL_MODULE),
        next(memory + 4 * SMALL_MODULE),
        roots(memory + 5 * SMALL_MODULE),
        n(pixels) {}
  HLT_FN uint32_t row(uint32_t d) const { return place[d] & 0xffffu; }
  HLT_FN uint32_t col(uint32_t d) const { return place[d] >> 16; }
};

// Sorts the pixels of a module into team memory; false if one of them was read out twice. A position has fewer than 24 bits, since a
// raster fits into team memory.
HLT_FN bool sort_pixels(WarpTeam const& team, Detector const& det, uint32_t const* position, uint32_t const* charge, SmallModule const& m) {
  uint32_t* const keys = m.member;
  for (uint32_t i = team.rank(); i < m.n; i += team.size()) keys[i] = position[i] * SMALL_MODULE + i;
  team.sync();
  team.sort(keys, m.n);
  uint32_t const col_step = det.column_words * 32;
  bool twice = false;
  for (uint32_t d = team.rank(); d < m.n; d += team.size()) {
    uint32_t const at = keys[d] / SMALL_MODULE, col = at / col_step;
    twice |= d != 0 && keys[d - 1] / SMALL_MODULE == at;
    m.place[d] = col << 16 | (at - col * col_step);
    m.charge[d] = charge[keys[d] % SMALL_MODULE];
    m.root[d] = d;
  }
  return !team.any(twice);
}

// The neighbours of digi d that come earlier in the raster: above it, and three in the column before. Those above, or above on the left,
// touch the one on the left, so that one of the three stands for all if that one is there; if not, the one below on the left is `other`.
struct EarlierNeighbours {
  uint32_t one, other;
};
HLT_FN EarlierNeighbours earlier_neighbours(SmallModule const& m, uint32_t d) {
  uint32_t const here = m.place[d], left = here - 0x10000u;
  uint32_t above = NONE, on_left = NONE, below = NONE;
  if (d != 0 && m.row(d) != 0 && m.place[d - 1] == here - 1) above = d - 1;
  for (uint32_t j = d; j-- != 0;) {
    int32_t const rows = int32_t(m.place[j] - left);  // between them; far beyond the module's rows in another column
    if (rows > 1) continue;
    if (rows == 1) below = j;
    if (rows == 0) on_left = j;
    if (rows == -1 && m.row(d) != 0 && above == NONE) above = j;
    if (rows < 0) break;
  }
  if (on_left != NONE) return {on_left, NONE};
  if (above != NONE) return {above, below};
  return {below, NONE};
}

HLT_FN Extent measure(SmallModule const& m, uint32_t root) {
  Extent e = {m.row(root), m.row(root), m.col(root), m.col(root), 0, 0, 0, 0, 0};
  for (uint32_t d = m.member[root]; d != NONE; d = m.next[d]) {
    e.min_row = smaller(e.min_row, m.row(d));
    e.max_row = larger(e.max_row, m.row(d));
    e.max_col = larger(e.max_col, m.col(d));
    e.charge += m.charge[d];
  }
  for (uint32_t d = m.member[root]; d != NONE; d = m.next[d]) {
    uint64_t const q = m.charge[d];
    e.first_row += m.row(d) == e.min_row ? q : 0;
    e.last_row += m.row(d) == e.max_row ? q : 0;
    e.first_col += m.col(d) == e.min_col ? q : 0;
    e.last_col += m.col(d) == e.max_col ? q : 0;
  }
  return e;
}

// Lists the clusters of a module by their first digis, and the digis of each; returns the number of clusters.
HLT_FN uint32_t list_clusters(WarpTeam const& team, SmallModule const& m) {
  uint32_t joins = 0;
  for (uint32_t d = team.rank(); d < m.n; d += team.size()) {
    EarlierNeighbours const near = earlier_neighbours(m, d);
    if (near.one != NONE) m.root[d] = near.one;
    m.next[d] = near.other;
    joins |= near.other != NONE;
  }
  team.sync();
  if (team.any(joins != 0)) {
    for (uint32_t d = team.rank(); d < m.n; d += team.size())
      if (m.next[d] != NONE) unite(m.root, d, m.next[d]);
    team.sync();
  }
  for (uint32_t d = team.rank(); d < m.n; d += team.size()) {
    atomic_min(&m.root[d], find_root(m.root, d));
    m.member[d] = NONE;
  }
  team.sync();
  uint32_t n = 0;
  for (uint32_t d0 = 0; d0 < m.n; d0 += team.size()) {
    uint32_t const d = d0 + team.rank();
    bool const is_root = d < m.n && m.root[d] == d;
    uint32_t total;
    uint32_t const place = n + team.exclusive_count(is_root, total);
    n += total;
    if (is_root) m.roots[place] = d;
    if (d < m.n) m.next[d] = atomic_exchange(&m.member[m.root[d]], d);
  }
  team.sync();
  return n;
}

// Item: a module of an event. Modules that are not small wait for `cluster_large`. O(pixels * log^2 pixels), of at most 256.
HLT_FN void cluster_small(WarpTeam const& team, uint32_t item, Detector const& det, ModuleTable const& table, ModulePixels const& modules,
                          Pixels const& pixels, Digis const& digis, Clusters const& clusters, ModuleClusters const& out,
                          LargeModules const& large, Events const& events, Results const& results) {
  uint32_t const n = modules.count[item];
  if (n == 0) {
    if (team.rank() == 0) out.digis[item] = out.kept[item] = 0;
    return;
  }
  if (n > SMALL_MODULE) {
    if (team.rank() == 0) large.item[atomic_add(large.n, 1u)] = item;
    return;
  }
  SmallModule const m(team.scratch(), n);
  uint32_t const begin = modules.begin[item], event = item / det.n_modules, module = item % det.n_modules;
  bool const distinct = sort_pixels(team, det, pixels.position + begin, pixels.charge + begin, m);
  team.sync();
  if (!distinct) {
    if (team.rank() == 0) large.item[atomic_add(large.n, 1u)] = item;
  } else {
    // Clusters above the charge cut are numbered by their first digi.
    uint32_t const found = list_clusters(team, m), min_charge = table.min_cluster_charge[module];
    uint32_t kept = 0;
    for (uint32_t first = 0; first < found; first += team.size()) {
      uint32_t const i = first + team.rank(), root = i < found ? m.roots[i] : 0;
      Extent e;
      e.charge = 0;
      if (i < found) e = measure(m, root);
      bool const keep = i < found && e.charge > min_charge;
      uint32_t total;
      uint32_t const rank = kept + team.exclusive_count(keep, total);
      kept += total;
      if (keep) write_cluster(clusters, begin + rank, e);
      if (i < found) m.member[root] = keep ? rank : NONE;
    }
    team.sync();
    uint64_t digest = 0;
    for (uint32_t d = team.rank(); d < n; d += team.size()) {
      uint32_t const position = m.col(d) * det.column_words * 32 + m.row(d), cluster = m.member[m.root[d]];
      digis.position[begin + d] = position;
      digis.charge[begin + d] = m.charge[d];
      digis.cluster[begin + d] = cluster;
      digest += digest_digi(module, position, m.charge[d], cluster);
    }
    uint64_t total;
    team.exclusive_scan(digest, total);
    if (team.rank() == 0) {
      out.digis[item] = n;
      out.kept[item] = kept;
      atomic_add(&results.pixels[event], n);
      atomic_add(&events.digest[event], total);
    }
  }
  team.sync();
  for (uint32_t d = team.rank(); d < n; d += team.size()) m.place[d] = m.charge[d] = m.root[d] = m.member[d] = m.next[d] = m.roots[d] = 0;
  team.sync();
}

// Item: a queued module. O(pixels of the module), times the inverse Ackermann function.
HLT_FN void cluster_large(Team const& team, uint32_t queued, Detector const& det, ModuleTable const& table, ModulePixels const& modules,
                          Pixels const& pixels, Digis const& digis, Clusters const& clusters, ClusterSums const& sums,
                          ModuleClusters const& out, LargeModules const& large, Events const& events, Results const& results) {
  uint32_t const item = large.item[queued], n_words = modules.count[item];
  uint32_t const begin = modules.begin[item], event = item / det.n_modules, module = item % det.n_modules;
  uint32_t const col_step = det.column_words * 32;
  Raster const raster(team.scratch(), det.raster_words);
  uint32_t const* const word_position = pixels.position + begin;
  uint32_t* const position = digis.position + begin;
  uint32_t* const charge = digis.charge + begin;
  uint32_t* const root = sums.root + begin;

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
    sums.min_row[c] = sums.max_row[c] = row;
    sums.min_col[c] = sums.max_col[c] = col;
    sums.charge[c] = sums.first_row_charge[c] = sums.last_row_charge[c] = 0;
    sums.first_col_charge[c] = sums.last_col_charge[c] = 0;
    uint32_t const top = find_root(root, i);
    atomic_min(&root[i], top);
  }
  team.sync();

  for (uint32_t i = team.rank(); i < n; i += team.size()) {
    uint32_t const c = begin + root[i], row = position[i] % col_step, col = position[i] / col_step;
    atomic_min(&sums.min_row[c], row);
    atomic_max(&sums.max_row[c], row);
    atomic_min(&sums.min_col[c], col);
    atomic_max(&sums.max_col[c], col);
    atomic_add(&sums.charge[c], uint64_t(charge[i]));
  }
  team.sync();

  for (uint32_t i = team.rank(); i < n; i += team.size()) {
    uint32_t const c = begin + root[i], row = position[i] % col_step, col = position[i] / col_step;
    uint64_t const q = charge[i];
    if (row == sums.min_row[c]) atomic_add(&sums.first_row_charge[c], q);
    if (row == sums.max_row[c]) atomic_add(&sums.last_row_charge[c], q);
    if (col == sums.min_col[c]) atomic_add(&sums.first_col_charge[c], q);
    if (col == sums.max_col[c]) atomic_add(&sums.last_col_charge[c], q);
  }

  team.sync();

  // Number the clusters that are kept by their first digi.
  uint32_t kept = 0;
  for (uint32_t first = 0; first < n; first += team.size()) {
    uint32_t const i = first + team.rank(), c = begin + i;
    bool const keep = i < n && root[i] == i && sums.charge[c] > table.min_cluster_charge[module];
    uint32_t total;
    uint32_t const rank = kept + team.exclusive_scan(uint32_t(keep), total);
    kept += total;
    if (i < n) sums.rank[c] = keep ? rank : NONE;
    if (keep)
      write_cluster(clusters, begin + rank,
                    {sums.min_row[c], sums.max_row[c], sums.min_col[c], sums.max_col[c], sums.charge[c], sums.first_row_charge[c],
                     sums.last_row_charge[c], sums.first_col_charge[c], sums.last_col_charge[c]});
  }
  team.sync();
  uint64_t digest = 0;
  for (uint32_t i = team.rank(); i < n; i += team.size()) {
    uint32_t const cluster = sums.rank[begin + root[i]];
    digis.cluster[begin + i] = cluster;
    digest += digest_digi(module, position[i], charge[i], cluster);
  }
  uint64_t total;
  team.exclusive_scan(digest, total);
  if (team.rank() == 0) {
    out.digis[item] = n;
    out.kept[item] = kept;
    atomic_add(&results.pixels[event], n);
    atomic_add(&events.digest[event], total);
    if (n != n_words) atomic_or(&results.flags[event], FLAG_DUPLICATE_PIXEL);
  }
}

}  // namespace hlt
