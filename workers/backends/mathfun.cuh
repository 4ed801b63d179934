// Elementary functions in double precision, the same bits on every backend: argument reduction, then the Taylor series of the
// function itself, with as many terms as the reduced argument needs. Error bounds (tests/unit/test_mathfun.py, in units of the last
// place, against a correctly rounded reference): log 1.5, atan2 3, sin and cos 1.6 for
// |x| <= 1000 and 2.5 for |x| <= 1e5, exp 1 where the result is normal, asinh 2.5 for |x| >= 1 and 3e-16 absolute below.
#pragma once
#include "backends/lanes.cuh"

namespace hlt {

constexpr double PI = 3.14159265358979311600;
constexpr double HALF_PI = 1.57079632679489655800;

#if defined(__CUDACC__)
#define HLT_TABLE __constant__
#else
#define HLT_TABLE constexpr
#endif

template <class T>
HLT_FN T absolute(T v) {
  return select(v < 0., -v, v);
}
template <class T>
HLT_FN Mask<T> is_finite(T v) {
  return (double_bits(v) >> 52 & 0x7ffu) != 0x7ffu;
}

// Natural logarithm of a normal, positive number; -infinity for 0 and subnormal numbers, not a number below 0.
// x = 2^e m with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 0.1716.
template <class T>
HLT_FN T log_of(T x) {
  auto const bits = double_bits(x);
  T e = bits_double((bits >> 52) | 0x4330000000000000ull) - (4503599627370496. + 1023.);
  T m = bits_double((bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull);
  auto const upper = m > 1.41421356237309514547;
  m = select(upper, m * 0.5, m);
  e = select(upper, e + 1., e);
  T const f = m - 1., s = f / (m + 1.), z = s * s;
  T series = all<T>(1. / 25.);
  series = series * z + 1. / 23.;
  series = series * z + 1. / 21.;
  series = series * z + 1. / 19.;
  series = series * z + 1. / 17.;
  series = series * z + 1. / 15.;
  series = series * z + 1. / 13.;
  series = series * z + 1. / 11.;
  series = series * z + 1. / 9.;
  series = series * z + 1. / 7.;
  series = series * z + 1. / 5.;
  series = series * z + 1. / 3.;
  // log m = f - s (f - 2 z series): the leading term f is exact.
  T const log_m = f - s * (f - 2. * z * series);
  T const value = e * 6.93147180369123816490e-01 + (e * 1.90821492927058770002e-10 + log_m);
  T const infinity = all<T>(bits_double(uint64_t(0x7ff0000000000000ull)));
  T const positive = select(x < infinity, select(x < 2.2250738585072014e-308, -infinity, value), x);
  T const other = select(x == 0., -infinity, all<T>(bits_double(uint64_t(0x7ff8000000000000ull))));
  return select(x > 0., positive, other);
}

// atan(k / 8), k = 0 .. 8: leading double and the rest.
HLT_TABLE double ATAN_EIGHTHS[9] = {0.0,
                                    0.12435499454676144,
                                    0.24497866312686414,
                                    0.35877067027057225,
                                    0.46364760900080609,
                                    0.55859931534356244,
                                    0.64350110879328437,
                                    0.71882999962162453,
                                    0.78539816339744828};

// Whole part of 0 <= v < 2^51: the sum with 2^52 has no place for a fraction.
template <class T>
HLT_FN T whole(T v) {
  T const nearest = (v + 4503599627370496.) - 4503599627370496.;
  return select(nearest > v, nearest - 1., nearest);
}

// The entry of the table for k / 8; 0 for what is not a number.
HLT_FN double atan_eighths(double k) { return ATAN_EIGHTHS[k <= 8. ? uint32_t(k) : 0u]; }
#if !defined(__CUDACC__)
HLT_FN Reals atan_eighths(Reals k) {
  return lanes([&](uint32_t l) { return atan_eighths(k[l]); });
}
#endif

// atan(t) for 0 <= t <= 1: the nearest k/8 is taken off by the addition theorem, the rest r is at most 1/15.
template <class T>
HLT_FN T atan_unit(T t) {
  T const k = whole(t * 8. + 0.5), c = k * 0.125;
  T const r = (t - c) / (1. + t * c), z = r * r;
  T series = all<T>(1. / 15.);
  series = 1. / 13. - series * z;
  series = 1. / 11. - series * z;
  series = 1. / 9. - series * z;
  series = 1. / 7. - series * z;
  series = 1. / 5. - series * z;
  series = 1. / 3. - series * z;
  return atan_eighths(k) + (r - r * z * series);
}

// Angle of (x, y) in (-pi, pi]; atan2(0, 0) is 0.
template <class T>
HLT_FN T atan2_of(T y, T x) {
  T const ax = absolute(x), ay = absolute(y);
  auto const steep = ay > ax;
  T const high = select(steep, ay, ax), low = select(steep, ax, ay);
  T angle = select(high > 0., atan_unit(low / high), T());
  angle = select(steep, HALF_PI - angle, angle);
  angle = select(x < 0., PI - angle, angle);
  return select(y < 0., -angle, angle);
}

struct SinCos {
  double sin, cos;
};

// Sine and cosine for |x| <= 1e5: x - k pi/2 in three parts, then Taylor on [-pi/4, pi/4].
HLT_FN SinCos sin_cos_of(double x) {
  double const turns = x * 0.63661977236758138243;
  int32_t const k = int32_t(turns < 0. ? turns - 0.5 : turns + 0.5);
  double const kd = double(k);
  double const r = ((x - kd * 1.57079632673412561417) - kd * 6.07710050630396597660e-11) - kd * 2.02226624879595063154e-21;
  double const z = r * r;
  double s = 1. / 355687428096000.;
  s = 1. / 1307674368000. - s * z;
  s = 1. / 6227020800. - s * z;
  s = 1. / 39916800. - s * z;
  s = 1. / 362880. - s * z;
  s = 1. / 5040. - s * z;
  s = 1. / 120. - s * z;
  s = 1. / 6. - s * z;
  double const sine = r - r * z * s;
  double c = 1. / 20922789888000.;
  c = 1. / 87178291200. - c * z;
  c = 1. / 479001600. - c * z;
  c = 1. / 3628800. - c * z;
  c = 1. / 40320. - c * z;
  c = 1. / 720. - c * z;
  c = 1. / 24. - c * z;
  double const cosine = 1. - (0.5 * z - z * z * c);
  switch (uint32_t(k) & 3u) {
    case 0: return {sine, cosine};
    case 1: return {cosine, -sine};
    case 2: return {-sine, -cosine};
    default: return {-cosine, sine};
  }
}

// Exponential; 0 below -708, infinity above 709. x = k log 2 + r with |r| <= 0.347, Taylor for r, then the exponent is set.
HLT_FN double exp_of(double x) {
  if (x != x) return x;
  if (x < -708.) return 0.;
  if (x > 709.) return bits_double(0x7ff0000000000000ull);
  double const turns = x * 1.44269504088896338700;
  int32_t const k = int32_t(turns < 0. ? turns - 0.5 : turns + 0.5);
  double const r = (x - double(k) * 6.93147180369123816490e-01) - double(k) * 1.90821492927058770002e-10;
  double series = 1. / 6227020800.;
  series = series * r + 1. / 479001600.;
  series = series * r + 1. / 39916800.;
  series = series * r + 1. / 3628800.;
  series = series * r + 1. / 362880.;
  series = series * r + 1. / 40320.;
  series = series * r + 1. / 5040.;
  series = series * r + 1. / 720.;
  series = series * r + 1. / 120.;
  series = series * r + 1. / 24.;
  series = series * r + 1. / 6.;
  series = series * r + 0.5;
  double const grown = 1. + (r + r * r * series);
  return bits_double(double_bits(grown) + (uint64_t(int64_t(k)) << 52));
}

template <class T>
HLT_FN T asinh_of(T x) {
  T const a = absolute(x);
  T const value = log_of(a + square_root(a * a + 1.));
  return select(x < 0., -value, value);
}

}  // namespace hlt
