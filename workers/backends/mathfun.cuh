// Elementary functions in double precision, the same bits on every backend: argument reduction, then the Taylor series of the
// function itself, with as many terms as the reduced argument needs. Error bounds (tests/unit/test_mathfun.py, in units of the last
// place, against a correctly rounded reference): log 1.5, atan2 3, sin and cos 1.6 for
// |x| <= 1000 and 2.5 for |x| <= 1e5, exp 1 where the result is normal, asinh 2.5 for |x| >= 1 and 3e-16 absolute below.
#pragma once
#include "backends/portable.cuh"

namespace hlt {

constexpr double PI = 3.14159265358979311600;
constexpr double HALF_PI = 1.57079632679489655800;

#if defined(__CUDACC__)
HLT_FN double square_root(double v) { return __dsqrt_rn(v); }
HLT_FN uint64_t double_bits(double v) { return uint64_t(__double_as_longlong(v)); }
HLT_FN double bits_double(uint64_t v) { return __longlong_as_double(int64_t(v)); }
#define HLT_TABLE __constant__
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
#define HLT_TABLE constexpr
#endif

HLT_FN double absolute(double v) { return v < 0. ? -v : v; }
HLT_FN bool is_finite(double v) { return (double_bits(v) >> 52 & 0x7ffu) != 0x7ffu; }

// Natural logarithm of a normal, positive number; -infinity for 0 and subnormal numbers, not a number below 0.
// x = 2^e m with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 0.1716.
HLT_FN double log_of(double x) {
  uint64_t const bits = double_bits(x);
  if (!(x > 0.)) return x < 0. || x != x ? bits_double(0x7ff8000000000000ull) : bits_double(0xfff0000000000000ull);
  if (bits < 0x0010000000000000ull) return bits_double(0xfff0000000000000ull);
  if (!is_finite(x)) return x;
  int32_t e = int32_t(bits >> 52) - 1023;
  double m = bits_double((bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull);
  if (m > 1.41421356237309514547) {
    m *= 0.5;
    e += 1;
  }
  double const f = m - 1., s = f / (m + 1.), z = s * s;
  double series = 1. / 25.;
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
  double const log_m = f - s * (f - 2. * z * series);
  return double(e) * 6.93147180369123816490e-01 + (double(e) * 1.90821492927058770002e-10 + log_m);
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

// atan(t) for 0 <= t <= 1: the nearest k/8 is taken off by the addition theorem, the rest r is at most 1/15.
HLT_FN double atan_unit(double t) {
  uint32_t const k = uint32_t(t * 8. + 0.5);
  double const c = double(k) * 0.125;
  double const r = (t - c) / (1. + t * c), z = r * r;
  double series = 1. / 15.;
  series = 1. / 13. - series * z;
  series = 1. / 11. - series * z;
  series = 1. / 9. - series * z;
  series = 1. / 7. - series * z;
  series = 1. / 5. - series * z;
  series = 1. / 3. - series * z;
  return ATAN_EIGHTHS[k] + (r - r * z * series);
}

// Angle of (x, y) in (-pi, pi]; atan2(0, 0) is 0.
HLT_FN double atan2_of(double y, double x) {
  double const ax = absolute(x), ay = absolute(y);
  bool const steep = ay > ax;
  double const high = steep ? ay : ax, low = steep ? ax : ay;
  double angle = high > 0. ? atan_unit(low / high) : 0.;
  if (steep) angle = HALF_PI - angle;
  if (x < 0.) angle = PI - angle;
  return y < 0. ? -angle : angle;
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

HLT_FN double asinh_of(double x) {
  double const a = absolute(x);
  double const value = log_of(a + square_root(a * a + 1.));
  return x < 0. ? -value : value;
}

}  // namespace hlt
