// Arithmetic on several items at once. On the CPU `Reals` is a vector of doubles, one for each of LANES items, as wide as the processor's
// registers; on the GPU, where threads are the lanes, it is a double. Every lane is computed as if alone, so the width is of no
// consequence. Functions that take either have a template parameter for the type; conditions are masks, combined by & and | and used by
// `select`, and what one item does not need is computed for it all the same.
#pragma once
#include "backends/portable.cuh"

namespace hlt {

#if defined(__CUDACC__)
constexpr uint32_t LANES = 1;
typedef double Reals;
typedef float Floats;
typedef int32_t Ints;
#else
#if defined(__AVX__)
constexpr uint32_t LANES = 4;
#else
constexpr uint32_t LANES = 2;
#endif
typedef double Reals __attribute__((vector_size(8 * LANES)));
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint64_t LaneBits __attribute__((vector_size(8 * LANES)));
#endif

template <class T>
struct MaskOf {
  typedef decltype(T() < T()) type;
};
template <class T>
using Mask = typename MaskOf<T>::type;

#if defined(__CUDACC__)
HLT_FN double square_root(double v) { return __dsqrt_rn(v); }
HLT_FN uint64_t double_bits(double v) { return uint64_t(__double_as_longlong(v)); }
HLT_FN double bits_double(uint64_t v) { return __longlong_as_double(int64_t(v)); }
template <class V = Reals, class F>
HLT_FN V lanes(F value) {
  return value(0);
}
template <class V>
HLT_FN void store_lanes(V v, V* to, uint32_t) {
  *to = v;
}
#else
HLT_FN double square_root(double v) { return std::sqrt(v); }
HLT_FN uint64_t double_bits(double v) {
  uint64_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}
HLT_FN double bits_double(uint64_t v) {
  double value;
  __builtin_memcpy(&value, &v, sizeof value);
  return value;
}
template <class V>
struct ElementOf;
template <>
struct ElementOf<Reals> {
  typedef double type;
};
template <>
struct ElementOf<Floats> {
  typedef float type;
};
template <>
struct ElementOf<Ints> {
  typedef int32_t type;
};
HLT_FN LaneBits double_bits(Reals v) { return LaneBits(v); }
HLT_FN Reals bits_double(LaneBits v) { return Reals(v); }
HLT_FN Reals square_root(Reals v) {
  double each[LANES];
  __builtin_memcpy(each, &v, sizeof v);
  for (uint32_t l = 0; l < LANES; ++l) each[l] = std::sqrt(each[l]);
  __builtin_memcpy(&v, each, sizeof v);
  return v;
}
// The number `value(l)` in each lane l.
template <class V = Reals, class F>
HLT_FN V lanes(F value) {
  typename ElementOf<V>::type each[LANES];
  for (uint32_t l = 0; l < LANES; ++l) each[l] = value(l);
  V v;
  __builtin_memcpy(&v, each, sizeof v);
  return v;
}
// The first n lanes to `to`, one after the other.
template <class V>
HLT_FN void store_lanes(V const& v, typename ElementOf<V>::type* to, uint32_t n) {
  if (n == LANES) {
    __builtin_memcpy(to, &v, sizeof v);
  } else {
    for (uint32_t l = 0; l < n; ++l) to[l] = v[l];
  }
}
HLT_FN Floats to_float(Ints v) { return __builtin_convertvector(v, Floats); }
HLT_FN Floats to_float(Reals v) { return __builtin_convertvector(v, Floats); }
HLT_FN Reals to_double(Floats v) { return __builtin_convertvector(v, Reals); }
HLT_FN Ints to_int(Floats v) { return __builtin_convertvector(v, Ints); }
HLT_FN Ints to_int(Reals v) { return __builtin_convertvector(v, Ints); }
template <class M, class V>
HLT_FN V select(M const& mask, V const& yes, V const& no) {
  return mask ? yes : no;
}
HLT_FN Floats square_root(Floats v) {
  float each[LANES];
  __builtin_memcpy(each, &v, sizeof v);
  for (uint32_t l = 0; l < LANES; ++l) each[l] = std::sqrt(each[l]);
  __builtin_memcpy(&v, each, sizeof v);
  return v;
}
template <class V>
HLT_FN typename ElementOf<V>::type lane(V const& v, uint32_t l) {
  return v[l];
}
template <class M>
HLT_FN bool holds(M const& mask, uint32_t l) {
  return mask[l] != 0;
}
#endif

HLT_FN float to_float(int32_t v) { return float(v); }
HLT_FN float to_float(double v) { return float(v); }
HLT_FN double to_double(float v) { return double(v); }
HLT_FN int32_t to_int(float v) { return int32_t(v); }
HLT_FN int32_t to_int(double v) { return int32_t(v); }
HLT_FN double select(bool condition, double yes, double no) { return condition ? yes : no; }
HLT_FN float select(bool condition, float yes, float no) { return condition ? yes : no; }
HLT_FN int32_t select(bool condition, int32_t yes, int32_t no) { return condition ? yes : no; }
HLT_FN double lane(double v, uint32_t) { return v; }
HLT_FN float lane(float v, uint32_t) { return v; }
HLT_FN int32_t lane(int32_t v, uint32_t) { return v; }
HLT_FN bool holds(bool condition, uint32_t) { return condition; }

// The number v in every lane.
template <class T>
HLT_FN T all(double v) {
  return T() + v;
}
template <class T>
HLT_FN T all(float v) {
  return T() + v;
}
template <class T>
HLT_FN T all(int32_t v) {
  return T() + v;
}

}  // namespace hlt
