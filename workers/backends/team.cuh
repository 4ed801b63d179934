// The threads that share one work item: one block or one warp on the GPU, one thread on the CPU.
//
// Kernels are written for any team size: for (i = team.rank(); i < n; i += team.size()), with team.sync() wherever one
// thread reads what another wrote. Collective calls (sync, exclusive_scan) must be reached by every thread of the team.
#pragma once
#include "backends/portable.cuh"

namespace hlt {

constexpr uint32_t GROUP = 32;  // hits or cells that a warp takes on together

#if defined(__CUDACC__)

class Team {
 public:
  __device__ Team(uint32_t* scratch, uint64_t* warps) : scratch_(scratch), warps_(warps) {}
  HLT_FN uint32_t rank() const { return threadIdx.x; }
  HLT_FN uint32_t size() const { return blockDim.x; }
  HLT_FN void sync() const { __syncthreads(); }
  HLT_FN uint32_t* scratch() const { return scratch_; }

  // Sum of the values of the threads before this one; `total` is the sum over the team. Contains two syncs.
  template <class T>
  HLT_FN T exclusive_scan(T value, T& total) const {
    uint32_t const lane = threadIdx.x & 31u, warp = threadIdx.x >> 5;
    T inclusive = value;
    for (uint32_t d = 1; d < 32; d <<= 1) {
      T const other = __shfl_up_sync(0xffffffffu, inclusive, d);
      if (lane >= d) inclusive += other;
    }
    if (lane == 31) warps_[warp] = uint64_t(inclusive);
    __syncthreads();
    T before = 0;
    total = 0;
    for (uint32_t w = 0; w < blockDim.x >> 5; ++w) {
      if (w == warp) before = total;
      total += T(warps_[w]);
    }
    __syncthreads();
    return before + inclusive - value;
  }

 private:
  uint32_t* scratch_;
  uint64_t* warps_;
};

// A warp: several of them share a block, each with an item and team memory of its own.
class WarpTeam {
 public:
  __device__ explicit WarpTeam(uint32_t* scratch) : scratch_(scratch) {}
  HLT_FN uint32_t rank() const { return threadIdx.x & 31u; }
  HLT_FN static constexpr uint32_t size() { return 32; }
  HLT_FN void sync() const { __syncwarp(); }
  HLT_FN uint32_t* scratch() const { return scratch_; }
  template <class T>
  HLT_FN T exclusive_scan(T value, T& total) const {
    T inclusive = value;
    for (uint32_t d = 1; d < 32; d <<= 1) {
      T const other = __shfl_up_sync(0xffffffffu, inclusive, d);
      if (rank() >= d) inclusive += other;
    }
    total = __shfl_sync(0xffffffffu, inclusive, 31);
    return inclusive - value;
  }
  // The same for conditions: how many hold in the threads before this one.
  HLT_FN uint32_t exclusive_count(bool value, uint32_t& total) const {
    uint32_t const all = __ballot_sync(0xffffffffu, value);
    total = __popc(all);
    return __popc(all & ((1u << rank()) - 1u));
  }
  HLT_FN bool any(bool value) const { return __any_sync(0xffffffffu, value) != 0; }
  // One bit a thread.
  HLT_FN uint32_t ballot(bool value) const { return __ballot_sync(0xffffffffu, value); }
  // The value of another thread of the team; reached by all.
  template <class T>
  HLT_FN T from(uint32_t owner, T value) const {
    return __shfl_sync(0xffffffffu, value, owner);
  }

  // Sorts n <= 256 keys in team memory in rising order; the memory has room for 256. Bitonic, in registers (Batcher, AFIPS 1968).
  HLT_FN void sort(uint32_t* keys, uint32_t n) const {
    if (n <= 32) {
      sort_in_registers<1>(keys, n);
    } else if (n <= 64) {
      sort_in_registers<2>(keys, n);
    } else if (n <= 128) {
      sort_in_registers<4>(keys, n);
    } else {
      sort_in_registers<8>(keys, n);
    }
  }

  // The sum with the values of all threads added to it one by one, in the order of threads.
  HLT_FN double add_in_order(double sum, double value) const {
    HLT_UNROLL
    for (uint32_t lane = 0; lane < 32; ++lane) sum += from(lane, value);
    return sum;
  }

  // Every thread has n things to do: shares them out evenly. `f(owner, k, active)` is for the k-th thing of thread `owner`; all
  // threads reach each call, those that are not active have nothing to do there. AHEAD calls may be under way at a time.
  template <uint32_t AHEAD = 1, class F>
  HLT_FN void share_out(uint32_t n, F f) const {
    uint32_t total;
    uint32_t const begin = exclusive_scan(n, total);
    uint32_t const owner_of = nth_bit(__ballot_sync(0xffffffffu, n != 0), rank());  // of the rank()-th that has anything
    uint32_t const up_to_me = 0xffffffffu >> (31u - rank());
    uint32_t started = 0;
#pragma unroll AHEAD
    for (uint32_t t0 = 0; t0 < total; t0 += 32) {
      uint32_t const at = begin - t0;
      uint32_t const starts = reduce_or(n != 0 && at < 32 ? 1u << at : 0u);
      uint32_t const owner = from(started + __popc(starts & up_to_me) - 1, owner_of);
      f(owner, t0 + rank() - from(owner, begin), t0 + rank() < total);
      started += __popc(starts);
    }
  }

  // Values that few threads have are put aside in team memory, 64 words, until there is one for every thread: then f is called. `n` of
  // them are waiting.
  template <class F>
  HLT_FN void put_aside(uint32_t* memory, uint32_t& n, bool there, uint32_t value, F f) const {
    uint32_t added;
    uint32_t const place = n + exclusive_count(there, added);
    if (added == 0) return;
    if (there) memory[place] = value;
    n += added;
    if (n < 32) return;
    sync();
    n -= 32;
    f(memory[n + rank()]);
    sync();
  }
  // Calls f for those that are left.
  template <class F>
  HLT_FN void take_up(uint32_t const* memory, uint32_t& n, F f) const {
    sync();
    if (rank() < n) f(memory[rank()]);
    n = 0;
    sync();
  }

 private:
  // Key 32 v + rank is in register v of a thread.
  template <uint32_t V>
  HLT_FN void sort_in_registers(uint32_t* keys, uint32_t n) const {
    uint32_t key[V];
    HLT_UNROLL
    for (uint32_t v = 0; v < V; ++v) key[v] = 32 * v + rank() < n ? keys[32 * v + rank()] : NONE;
    HLT_UNROLL
    for (uint32_t size = 2; size <= 32 * V; size *= 2) {
      HLT_UNROLL
      for (uint32_t stride = size / 2; stride != 0; stride /= 2) {
        HLT_UNROLL
        for (uint32_t v = 0; v < V; ++v) {
          uint32_t const place = 32 * v + rank();
          bool const rising = (place & size) == 0;
          if (stride >= 32) {
            uint32_t const w = v + stride / 32;
            if ((v & stride / 32) != 0) continue;
            uint32_t const low = smaller(key[v], key[w % V]), high = larger(key[v], key[w % V]);
            key[v] = rising ? low : high;
            key[w % V] = rising ? high : low;
          } else {
            uint32_t const other = __shfl_xor_sync(0xffffffffu, key[v], stride);
            key[v] = rising == ((place & stride) == 0) ? smaller(key[v], other) : larger(key[v], other);
          }
        }
      }
    }
    HLT_UNROLL
    for (uint32_t v = 0; v < V; ++v)
      if (32 * v + rank() < n) keys[32 * v + rank()] = key[v];
    sync();
  }
  HLT_FN static uint32_t reduce_or(uint32_t value) {
#if __CUDA_ARCH__ >= 800
    return __reduce_or_sync(0xffffffffu, value);
#else
    for (uint32_t d = 16; d != 0; d >>= 1) value |= __shfl_xor_sync(0xffffffffu, value, d);
    return value;
#endif
  }

  uint32_t* scratch_;
};

#else

class Team {
 public:
  explicit Team(uint32_t* scratch) : scratch_(scratch) {}
  static constexpr uint32_t rank() { return 0; }
  static constexpr uint32_t size() { return 1; }
  void sync() const {}
  uint32_t* scratch() const { return scratch_; }
  template <class T>
  T exclusive_scan(T value, T& total) const {
    total = value;
    return T(0);
  }
  uint32_t exclusive_count(bool value, uint32_t& total) const {
    total = value;
    return 0;
  }
  bool any(bool value) const { return value; }
  uint32_t ballot(bool value) const { return value; }
  template <class T>
  T from(uint32_t, T value) const {
    return value;
  }
  double add_in_order(double sum, double value) const { return sum + value; }
  void sort(uint32_t* keys, uint32_t n) const { std::sort(keys, keys + n); }
  template <class F>
  void put_aside(uint32_t*, uint32_t&, bool there, uint32_t value, F f) const {
    if (there) f(value);
  }
  template <class F>
  void take_up(uint32_t const*, uint32_t&, F) const {}
  template <uint32_t AHEAD = 1, class F>
  void share_out(uint32_t n, F f) const {
    for (uint32_t k = 0; k < n; ++k) f(0u, k, true);
  }

 private:
  uint32_t* scratch_;
};

using WarpTeam = Team;

#endif

// Calls put(place, i) for those of first .. last - 1 that take(i) chooses, places counted from `at` in the order of i; returns the next
// place. Four to a thread at a time, so that their memory accesses overlap.
template <class AnyTeam, class Take, class Put>
HLT_FN uint32_t list_in_order(AnyTeam const& team, uint32_t first, uint32_t last, uint32_t at, Take take, Put put) {
  for (uint32_t i0 = first; i0 < last; i0 += 4 * team.size()) {
    uint64_t taken = 0;
    HLT_UNROLL
    for (uint32_t j = 0; j < 4; ++j) {
      uint32_t const i = i0 + j * team.size() + team.rank();
      taken |= uint64_t(i < last && take(i)) << 16 * j;
    }
    uint64_t total;
    uint64_t const before = team.exclusive_scan(taken, total);
    HLT_UNROLL
    for (uint32_t j = 0; j < 4; ++j) {
      if (taken >> 16 * j & 1u) put(at + (uint32_t(before >> 16 * j) & 0xffffu), i0 + j * team.size() + team.rank());
      at += uint32_t(total >> 16 * j) & 0xffffu;
    }
  }
  return at;
}

}  // namespace hlt
