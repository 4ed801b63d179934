// The threads that share one work item: one block or one warp on the GPU, one thread on the CPU.
//
// Kernels are written for any team size: for (i = team.rank(); i < n; i += team.size()), with team.sync() wherever one
// thread reads what another wrote. Collective calls (sync, exclusive_scan) must be reached by every thread of the team.
#pragma once
#include "backends/portable.cuh"

namespace hlt {

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

  // Every thread has n things to do: shares them out evenly. `f(owner, k, active)` is for the k-th thing of thread `owner`; all
  // threads reach each call, those that are not active have nothing to do there.
  template <class F>
  HLT_FN void share_out(uint32_t n, F f) const {
    uint32_t total;
    uint32_t const begin = exclusive_scan(n, total);
    uint32_t const owner_of = nth_bit(__ballot_sync(0xffffffffu, n != 0), rank());  // of the rank()-th that has anything
    uint32_t const up_to_me = 0xffffffffu >> (31u - rank());
    for (uint32_t t0 = 0, started = 0; t0 < total; t0 += 32) {
      uint32_t const at = begin - t0;
      uint32_t const starts = reduce_or(n != 0 && at < 32 ? 1u << at : 0u);
      uint32_t const owner = from(started + __popc(starts & up_to_me) - 1, owner_of);
      f(owner, t0 + rank() - from(owner, begin), t0 + rank() < total);
      started += __popc(starts);
    }
  }

 private:
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
  template <class F>
  void share_out(uint32_t n, F f) const {
    for (uint32_t k = 0; k < n; ++k) f(0u, k, true);
  }

 private:
  uint32_t* scratch_;
};

using WarpTeam = Team;

#endif

}  // namespace hlt
