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

 private:
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

 private:
  uint32_t* scratch_;
};

using WarpTeam = Team;

#endif

}  // namespace hlt
