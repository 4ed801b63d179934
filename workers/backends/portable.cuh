// The few things that differ between the host compiler and NVRTC. Every kernel header builds on this one alone.
#pragma once

#if defined(__CUDACC_RTC__)
typedef unsigned char uint8_t;
typedef signed char int8_t;
typedef unsigned short uint16_t;
typedef short int16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;
#else
#include <algorithm>
#include <cmath>
#include <cstdint>
#endif

#if defined(__CUDACC__)
#define HLT_FN __device__ __forceinline__
#define HLT_UNROLL _Pragma("unroll")
#define HLT_UNROLL_4 _Pragma("unroll 4")
#else
// Always: kernels see the loop around them, so that what does not change between items stays in registers.
#define HLT_FN inline __attribute__((always_inline))
#define HLT_UNROLL _Pragma("GCC unroll 8")
#define HLT_UNROLL_4
#endif

namespace hlt {

constexpr uint32_t NONE = 0xffffffffu;
constexpr uint16_t NO_MODULE = 0xffffu;

// Items that one thread has under way at a time: where that hides the latency of memory, and that of the chain of a digest.
#if defined(__CUDACC__)
constexpr uint32_t ITEMS_AHEAD = 1, DIGESTS = 1;
#else
constexpr uint32_t ITEMS_AHEAD = 32, DIGESTS = 4;
#endif

// Order-free updates of shared integers. On the CPU an event belongs to one thread, so they are plain operations.
#if defined(__CUDACC__)
HLT_FN uint32_t atomic_add(uint32_t* p, uint32_t v) { return atomicAdd(p, v); }
HLT_FN uint64_t atomic_add(uint64_t* p, uint64_t v) { return atomicAdd(p, v); }
HLT_FN uint32_t atomic_min(uint32_t* p, uint32_t v) { return atomicMin(p, v); }
HLT_FN uint64_t atomic_min(uint64_t* p, uint64_t v) { return atomicMin(p, v); }
HLT_FN uint32_t atomic_max(uint32_t* p, uint32_t v) { return atomicMax(p, v); }
// Of numbers that are not negative: their bits are in the order of their values.
HLT_FN void atomic_max(float* p, float v) { atomicMax(reinterpret_cast<uint32_t*>(p), __float_as_uint(v)); }
HLT_FN uint32_t atomic_or(uint32_t* p, uint32_t v) { return atomicOr(p, v); }
HLT_FN uint64_t atomic_or(uint64_t* p, uint64_t v) { return atomicOr(p, v); }
HLT_FN uint32_t atomic_exchange(uint32_t* p, uint32_t v) { return atomicExch(p, v); }
// Adds to the sum of an event. Neighbouring items mostly belong to one event: then a warp adds once.
HLT_FN void add_for_event(uint64_t* sums, uint32_t event, uint64_t v) {
  if (__activemask() == 0xffffffffu && __all_sync(0xffffffffu, event == __shfl_sync(0xffffffffu, event, 0))) {
    for (uint32_t d = 16; d != 0; d >>= 1) v += __shfl_down_sync(0xffffffffu, v, d);
    if ((threadIdx.x & 31u) == 0) atomicAdd(&sums[event], v);
  } else {
    atomicAdd(&sums[event], v);
  }
}
// What atomic_add(p, 1) returns, with one access for all threads of a warp that count at the same place.
HLT_FN uint32_t count_at(uint32_t* p) {
  uint32_t const peers = __match_any_sync(__activemask(), uint64_t(p)), leader = __ffs(peers) - 1, lane = threadIdx.x & 31u;
  uint32_t old = 0;
  if (lane == leader) old = atomicAdd(p, uint32_t(__popc(peers)));
  return __shfl_sync(peers, old, leader) + __popc(peers & ((1u << lane) - 1u));
}
// The same where nobody asks for the place.
HLT_FN void tally(uint32_t* p) {
  uint32_t const peers = __match_any_sync(__activemask(), uint64_t(p));
  if ((threadIdx.x & 31u) == uint32_t(__ffs(peers)) - 1) atomicAdd(p, uint32_t(__popc(peers)));
}
// A read from memory that the kernel does not write: it may be moved across writes.
template <class T>
HLT_FN T read_only(T const* p, uint32_t i) {
  return __ldg(p + i);
}
// A read that the compiler may not keep in a register while other threads write.
HLT_FN uint32_t fresh(uint32_t const* p) { return *static_cast<uint32_t const volatile*>(p); }
HLT_FN uint32_t popcount(uint32_t v) { return __popc(v); }
HLT_FN uint32_t popcount(uint64_t v) { return __popcll(v); }
HLT_FN uint32_t lowest_bit(uint32_t v) { return __ffs(v) - 1; }
HLT_FN uint32_t lowest_bit(uint64_t v) { return __ffsll(v) - 1; }
HLT_FN uint32_t float_bits(float v) { return __float_as_uint(v); }
HLT_FN float square_root(float v) { return __fsqrt_rn(v); }
HLT_FN void prefetch(void const*) {}  // other warps run while one waits
#else
template <class T>
HLT_FN T atomic_add(T* p, T v) {
  T const old = *p;
  *p = old + v;
  return old;
}
template <class T>
HLT_FN T atomic_min(T* p, T v) {
  T const old = *p;
  if (v < old) *p = v;
  return old;
}
HLT_FN uint32_t atomic_max(uint32_t* p, uint32_t v) {
  uint32_t const old = *p;
  if (v > old) *p = v;
  return old;
}
HLT_FN void atomic_max(float* p, float v) {
  if (v > *p) *p = v;
}
template <class T>
HLT_FN T atomic_or(T* p, T v) {
  T const old = *p;
  *p = old | v;
  return old;
}
HLT_FN uint32_t atomic_exchange(uint32_t* p, uint32_t v) {
  uint32_t const old = *p;
  *p = v;
  return old;
}
HLT_FN void add_for_event(uint64_t* sums, uint32_t event, uint64_t v) { sums[event] += v; }
HLT_FN uint32_t count_at(uint32_t* p) { return (*p)++; }
HLT_FN void tally(uint32_t* p) { ++*p; }
template <class T>
HLT_FN T read_only(T const* p, uint32_t i) {
  return p[i];
}
HLT_FN uint32_t fresh(uint32_t const* p) { return *p; }
HLT_FN uint32_t popcount(uint32_t v) { return __builtin_popcount(v); }
HLT_FN uint32_t popcount(uint64_t v) { return __builtin_popcountll(v); }
HLT_FN uint32_t lowest_bit(uint32_t v) { return __builtin_ctz(v); }
HLT_FN uint32_t lowest_bit(uint64_t v) { return __builtin_ctzll(v); }
HLT_FN uint32_t float_bits(float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}
HLT_FN float square_root(float v) { return std::sqrt(v); }
HLT_FN void prefetch(void const* p) { __builtin_prefetch(p); }
#endif

template <class T>
HLT_FN T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
HLT_FN T larger(T a, T b) {
  return a < b ? b : a;
}

// Place of the n-th set bit, counted from 0; without so many bits a place within the word all the same.
HLT_FN uint32_t nth_bit(uint32_t mask, uint32_t n) {
  uint32_t place = 0;
  HLT_UNROLL
  for (uint32_t half = 16; half != 0; half >>= 1) {
    uint32_t const below = popcount(mask >> place & ((1u << half) - 1u));
    if (n >= below) {
      n -= below;
      place += half;
    }
  }
  return place;
}
HLT_FN uint32_t nth_bit(uint64_t mask, uint32_t n) {
  uint32_t const low = popcount(uint32_t(mask));
  return n < low ? nth_bit(uint32_t(mask), n) : 32 + nth_bit(uint32_t(mask >> 32), n - low);
}

// 64-bit finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the building block of digests and prescale hashes.
HLT_FN uint64_t mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
HLT_FN uint64_t mix(uint64_t seed, uint64_t value) { return mix(seed ^ mix(value)); }

}  // namespace hlt
