// fit: helix parameters of a track by broken lines (Blobel, NIM A 566 (2006) 14; Blobel, Kleinwort, Meier, CPC 182 (2011) 1760), circle
// parameters and their translation after Karimaki (NIM A 305 (1991) 187). Notation and equations: docs/reconstruction.md, "fit".
#pragma once
#include "backends/mathfun.cuh"
#include "tracks/tracks.cuh"

namespace hlt {

template <class T>
struct Vector2 {
  T x, y;
};
template <class T>
HLT_FN Vector2<T> operator-(Vector2<T> const& a, Vector2<T> const& b) {
  return {a.x - b.x, a.y - b.y};
}
template <class T>
HLT_FN T dot(Vector2<T> const& a, Vector2<T> const& b) {
  return a.x * b.x + a.y * b.y;
}
template <class T>
HLT_FN T cross(Vector2<T> const& a, Vector2<T> const& b) {
  return a.x * b.y - a.y * b.x;
}
template <class T>
HLT_FN T norm(Vector2<T> const& a) {
  return square_root(a.x * a.x + a.y * a.y);
}

// Symmetric positive definite system of order N, by LDL^T. The lower triangle is overwritten by the factors.
template <int N, class T>
struct System {
  T a[N][N];

  HLT_FN void factor() {
    HLT_UNROLL
    for (int j = 0; j < N; ++j) {
      HLT_UNROLL
      for (int i = 0; i < N; ++i) {
        if (i < j) continue;
        T sum = a[i][j];
        HLT_UNROLL
        for (int k = 0; k < N; ++k)
          if (k < j) sum -= a[i][k] * a[j][k] * a[k][k];
        a[i][j] = i == j ? sum : sum / a[j][j];
      }
    }
  }
  HLT_FN void solve(T (&b)[N]) const {
    HLT_UNROLL
    for (int i = 0; i < N; ++i) HLT_UNROLL
    for (int k = 0; k < N; ++k)
      if (k < i) b[i] -= a[i][k] * b[k];
    HLT_UNROLL
    for (int i = 0; i < N; ++i) b[i] /= a[i][i];
    HLT_UNROLL
    for (int r = 0; r < N; ++r) {
      int const i = N - 1 - r;
      HLT_UNROLL
      for (int k = 0; k < N; ++k)
        if (k > i) b[i] -= a[k][i] * b[k];
    }
  }
};

// Measurements of a track: positions, and the covariance in the order xx, xy, yy, xz, yz, zz.
template <int N, class T = double>
struct Measurements {
  T x[N], y[N], z[N], e[N][6];
  HLT_FN Vector2<T> p(int i) const { return {x[i], y[i]}; }
};

template <class T>
struct HelixOf {
  T phi, tip, qpt, cot, zip, chi2, cov[15];
  Mask<T> good;
};
using Helix = HelixOf<double>;

// Variance of a planar scattering angle after a path of `length` cm in the pixel detector's average material (Highland's formula).
template <class T>
HLT_FN T scattering(T length, T momentum2) {
  T const thickness = absolute(length) * (0.06 / 16.);
  T const correction = 1. + 0.038 * log_of(thickness);
  return 0.7 * (0.0136 * 0.0136) * thickness * correction * correction / momentum2;
}

// The equations of the broken line of N points with abscissae t, measurements y, weights w and kink variances v. Order is N, or N + 1
// with the curvature correction as last unknown. Returns the chi square; u is the solution, `system` holds the factors.
template <int N, int ORDER, class T>
HLT_FN T broken_line(T const (&t)[N], T const (&y)[N], T const (&w)[N], T const (&v)[N], System<ORDER, T>& system, T (&u)[ORDER]) {
  T delta[N - 1];
  HLT_UNROLL
  for (int i = 0; i < N - 1; ++i) delta[i] = 1. / (t[i + 1] - t[i]);
  HLT_UNROLL
  for (int i = 0; i < ORDER; ++i) HLT_UNROLL
  for (int j = 0; j < ORDER; ++j) system.a[i][j] = T();
  HLT_UNROLL
  for (int i = 0; i < N; ++i) system.a[i][i] = w[i];
  // Each inner point adds the square of its kink: coefficients of the offsets before, at and behind it, and of the curvature.
  HLT_UNROLL
  for (int i = 1; i < N - 1; ++i) {
    T const before = delta[i - 1], at = -(delta[i - 1] + delta[i]), behind = delta[i], inverse = 1. / v[i];
    system.a[i - 1][i - 1] += before * before * inverse;
    system.a[i][i] += at * at * inverse;
    system.a[i + 1][i + 1] += behind * behind * inverse;
    system.a[i][i - 1] += at * before * inverse;
    system.a[i + 1][i] += behind * at * inverse;
    system.a[i + 1][i - 1] += behind * before * inverse;
    if (ORDER > N) {
      T const g = 0.5 * (t[i + 1] - t[i - 1]);
      system.a[ORDER - 1][i - 1] += g * before * inverse;
      system.a[ORDER - 1][i] += g * at * inverse;
      system.a[ORDER - 1][i + 1] += g * behind * inverse;
      system.a[ORDER - 1][ORDER - 1] += g * g * inverse;
    }
  }
  HLT_UNROLL
  for (int i = 0; i < ORDER; ++i) u[i] = i < N ? w[i] * y[i] : T();
  system.factor();
  system.solve(u);
  T chi2 = T();
  HLT_UNROLL
  for (int i = 0; i < N; ++i) chi2 += w[i] * (y[i] - u[i]) * (y[i] - u[i]);
  HLT_UNROLL
  for (int i = 1; i < N - 1; ++i) {
    T kink = delta[i - 1] * u[i - 1] - (delta[i - 1] + delta[i]) * u[i] + delta[i] * u[i + 1];
    if (ORDER > N) kink += 0.5 * (t[i + 1] - t[i - 1]) * u[ORDER - 1];
    chi2 += kink * kink / v[i];
  }
  return chi2;
}

// Circle parameters in Karimaki's sense with their covariance: sine and cosine of the direction, distance d, curvature k.
template <class T>
struct Circle {
  T sin, cos, d, k;
  T pp, pd, pk, dd, dk, kk;
};

// Translation to a new reference point; (x0, y0) is the old one seen from there.
template <class T>
HLT_FN Circle<T> translate(Circle<T> const& c, T x0, T y0) {
  T const along = x0 * c.cos + y0 * c.sin, across = x0 * c.sin - y0 * c.cos + c.d, zeta = across * across + along * along;
  T const up = 1. + c.k * c.d, b = c.k * x0 + up * c.sin, e = -c.k * y0 + up * c.cos, v = 1. + c.k * across;
  T const a = 2. * across + c.k * zeta, u = square_root(1. + c.k * a), xi = 1. / (b * b + e * e), mu = 0.5 / u;
  T const lambda = a / (2. * u * (1. + u) * (1. + u)), length = square_root(b * b + e * e);
  T const j00 = xi * up * v, j01 = -xi * c.k * c.k * along, j02 = xi * along;
  T const j10 = 2. * mu * up * along, j11 = 2. * mu * v, j12 = mu * zeta - lambda * a;
  T const p0 = j00 * c.pp + j01 * c.pd + j02 * c.pk, p1 = j00 * c.pd + j01 * c.dd + j02 * c.dk, p2 = j00 * c.pk + j01 * c.dk + j02 * c.kk;
  T const d0 = j10 * c.pp + j11 * c.pd + j12 * c.pk, d1 = j10 * c.pd + j11 * c.dd + j12 * c.dk, d2 = j10 * c.pk + j11 * c.dk + j12 * c.kk;
  Circle<T> out;
  out.sin = b / length;
  out.cos = e / length;
  out.d = a / (1. + u);
  out.k = c.k;
  out.pp = p0 * j00 + p1 * j01 + p2 * j02;
  out.pd = p0 * j10 + p1 * j11 + p2 * j12;
  out.pk = p2;
  out.dd = d0 * j10 + d1 * j11 + d2 * j12;
  out.dk = d2;
  out.kk = c.kk;
  return out;
}

constexpr double MIN_CURVATURE = 1e-6;  // 1/cm, of the expansion circle
constexpr double MIN_STEP = 1e-4;       // cm, between neighbouring hits

// Fit of tracks of N hits ordered from the inside out. `field` in GeV/cm. `upstream` reproduces the reference programs' formula.
template <int N, class T>
HLT_FN HelixOf<T> fit_helix(Measurements<N, T> const& m, double field, bool upstream) {
  HelixOf<T> out;
  constexpr int H = N / 2;
  Vector2<T> const p0 = m.p(0), a = m.p(H) - p0, b = m.p(N - 1) - m.p(H), c = p0 - m.p(N - 1);

  // Three-point circle.
  T const ca = cross(c, a), lengths = norm(a) * norm(b) * norm(c);
  out.good = lengths > 0.;
  // If straight, a wide circle to the right of the track: the fit restores the curvature and its sign.
  auto const bent = 2. * absolute(ca) > MIN_CURVATURE * lengths;
  auto const left = (upstream ? cross(m.p(1) - p0, m.p(N - 1) - m.p(N - 2)) : cross(a, b)) > 0.;
  T const plus = all<T>(1.), q = select(bent & left, -plus, plus);
  T const radius = select(bent, lengths / (2. * absolute(ca)), all<T>(1. / MIN_CURVATURE));
  Vector2<T> const centre = {
      p0.x - select(bent, (a.y * dot(c, c) + c.y * dot(a, a)) / (2. * ca), c.y * radius / norm(c)),
      p0.y + select(bent, (a.x * dot(c, c) + c.x * dot(a, a)) / (2. * ca), c.x * radius / norm(c)),
  };
  T const centre_distance = norm(centre);
  out.good = out.good & (centre_distance > 0.);

  // Slope, arc lengths from the point of closest approach, and the frame along the prefit line.
  Vector2<T> const first = p0 - centre, last = m.p(N - 1) - centre;
  T const turn = atan2_of(cross(first, last), dot(first, last));
  T const slope = -q * (m.z[N - 1] - m.z[0]) / (radius * turn);
  T const secant2 = 1. + slope * slope, cosine = 1. / square_root(secant2), sine = slope * cosine;
  Vector2<T> const e = {-radius * centre.x / centre_distance, -radius * centre.y / centre_distance};
  T s[N], along[N], across[N], radial[N];
  Vector2<T> outward[N];
  HLT_UNROLL
  for (int i = 0; i < N; ++i) {
    Vector2<T> const rho = m.p(i) - centre;
    T const r = norm(rho);
    outward[i] = {rho.x / r, rho.y / r};
    s[i] = q * radius * atan2_of(cross(rho, e), dot(rho, e));
    along[i] = cosine * s[i] + sine * m.z[i];
    across[i] = -sine * s[i] + cosine * m.z[i];
    radial[i] = r - radius;
  }
  T const transverse = smaller(all<T>(20.), T(field * radius)), momentum2 = transverse * transverse * secant2;
  T step[N - 1], kink_line[N], kink_circle[N];
  HLT_UNROLL
  for (int i = 0; i < N - 1; ++i) {
    step[i] = scattering(along[i + 1] - along[i], momentum2);
    out.good = out.good & (absolute(along[i + 1] - along[i]) > MIN_STEP) & (absolute(s[i + 1] - s[i]) > MIN_STEP);
  }
  HLT_UNROLL
  for (int i = 0; i < N; ++i) {
    kink_line[i] = i == 0 || i == N - 1 ? all<T>(1.) : step[i] + step[i - 1];
    kink_circle[i] = kink_line[i] * secant2;
  }

  // Line fit in (S, Z).
  T weight[N];
  T const turn_sign = upstream ? plus : q;
  HLT_UNROLL
  for (int i = 0; i < N; ++i) {
    T const nx = -turn_sign * sine * outward[i].y, ny = turn_sign * sine * outward[i].x, nz = cosine;
    T const* const v = m.e[i];
    weight[i] = 1. / (nx * nx * v[0] + 2. * nx * ny * v[1] + ny * ny * v[2] + 2. * nx * nz * v[3] + 2. * ny * nz * v[4] + nz * nz * v[5]);
  }
  System<N, T> line;
  T u[N];
  T const line_chi2 = broken_line<N, N>(along, across, weight, kink_line, line, u);
  T i0[N] = {}, i1[N] = {};
  i0[0] = i1[1] = plus;
  line.solve(i0);
  line.solve(i1);
  T const base = along[1] - along[0], chord = (u[1] - u[0]) / base;
  T const var_p = (i0[0] - 2. * i0[1] + i1[1]) / (base * base) + step[0], cov_po = (i0[1] - i0[0]) / base, var_o = i0[0];
  T const offset = u[0] - chord * along[0];
  T const cov_po0 = cov_po - along[0] * var_p, var_o0 = var_o - 2. * along[0] * cov_po + along[0] * along[0] * var_p;
  T const t = cosine - chord * sine, t2 = 1. / (t * t);
  out.cot = (sine + chord * cosine) / t;
  out.zip = offset / t;
  T const jz = offset * sine * t2;
  out.cov[12] = t2 * t2 * var_p;
  out.cov[13] = t2 * (jz * var_p + cov_po0 / t);
  out.cov[14] = jz * jz * var_p + 2. * jz * cov_po0 / t + var_o0 / (t * t);

  // Circle fit in (s, distance from the prefit circle).
  HLT_UNROLL
  for (int i = 0; i < N; ++i) {
    T const* const v = m.e[i];
    T const nx = outward[i].x, ny = outward[i].y;
    weight[i] = 1. / (nx * nx * v[0] + 2. * nx * ny * v[1] + ny * ny * v[2]);
  }
  System<N + 1, T> ring;
  T w[N + 1];
  T const ring_chi2 = broken_line<N, N + 1>(s, radial, weight, kink_circle, ring, w);
  T c0[N + 1] = {}, c1[N + 1] = {}, cn[N + 1] = {};
  c0[0] = c1[1] = cn[N] = plus;
  ring.solve(c0);
  ring.solve(c1);
  ring.solve(cn);

  // Parameters at the corrected first hit D; F is the corrected second one.
  T const k = q * (1. / radius + w[N]);
  Vector2<T> const d = {p0.x + (w[0] - radial[0]) * outward[0].x, p0.y + (w[0] - radial[0]) * outward[0].y};
  Vector2<T> const f = {m.x[1] + (w[1] - radial[1]) * outward[1].x, m.y[1] + (w[1] - radial[1]) * outward[1].y};
  Vector2<T> const chord2 = f - d;
  T const l2 = dot(chord2, chord2), l = square_root(l2), half_bend = 0.5 * k * l;
  out.good = out.good & (half_bend * half_bend < 1.);
  Circle<T> at;
  at.k = k;
  T j00, j01, j02, j10;
  if (upstream) {
    at.sin = chord2.y / l;
    at.cos = chord2.x / l;
    at.d = -q * 0.25 * l2 / (radius + square_root(radius * radius - 0.25 * l2));
    j00 = (chord2.x * outward[0].y - chord2.y * outward[0].x) / l2;
    j01 = (chord2.x * outward[1].y - chord2.y * outward[1].x) / l2;
    j02 = j10 = T();
  } else {
    T const bend = square_root(1. - half_bend * half_bend);
    at.sin = (chord2.y * bend + chord2.x * half_bend) / l;
    at.cos = (chord2.x * bend - chord2.y * half_bend) / l;
    at.d = T();
    Vector2<T> const direction = {at.cos, at.sin};
    j00 = (chord2.y * outward[0].x - chord2.x * outward[0].y) / l2 - k * dot(chord2, outward[0]) / (2. * l * bend) +
          k * dot(outward[0], direction);
    j01 = (chord2.x * outward[1].y - chord2.y * outward[1].x) / l2 + k * dot(chord2, outward[1]) / (2. * l * bend);
    j02 = q * l / (2. * bend);
    j10 = outward[0].x * at.sin - outward[0].y * at.cos;
  }
  T const f0 = j00 * c0[0] + j01 * c0[1] + j02 * c0[N], f1 = j00 * c0[1] + j01 * c1[1] + j02 * c1[N],
          fn = j00 * c0[N] + j01 * c1[N] + j02 * cn[N];
  at.pp = f0 * j00 + f1 * j01 + fn * j02;
  at.pd = f0 * j10;
  at.pk = fn * q;
  at.dd = j10 * j10 * c0[0];
  at.dk = j10 * c0[N] * q;
  at.kk = cn[N];
  if (upstream) at = translate<T>(at, 0.5 * chord2.x, 0.5 * chord2.y);
  at.pp += secant2 * step[0];
  Circle<T> const pca = translate(at, d.x, d.y);

  out.phi = atan2_of(pca.sin, pca.cos);
  out.tip = pca.d;
  out.qpt = k / field;
  out.cov[0] = pca.pp;
  out.cov[1] = pca.pd;
  out.cov[2] = pca.pk / field;
  out.cov[5] = pca.dd;
  out.cov[6] = pca.dk / field;
  out.cov[9] = pca.kk / (field * field);
  out.cov[3] = out.cov[4] = out.cov[7] = out.cov[8] = out.cov[10] = out.cov[11] = T();
  out.chi2 = (line_chi2 + ring_chi2) / double(2 * N - 5);
  T const check =
      out.phi + out.tip + out.qpt + out.cot + out.zip + out.chi2 + out.cov[0] + out.cov[5] + out.cov[9] + out.cov[12] + out.cov[14];
  out.good = out.good & is_finite(check) & (k != 0.);
  return out;
}

// The tracks `t[l]`, one in each lane.
template <int N>
HLT_FN HelixOf<Reals> fit_hits(FitCuts const& cuts, ModuleTable const& table, Hits const& hits, Tracks const& tracks,
                               uint32_t const (&t)[LANES]) {
  Measurements<N, Reals> m;
  HLT_UNROLL
  for (int i = 0; i < N; ++i) {
    uint32_t h[LANES], module[LANES];
    for (uint32_t l = 0; l < LANES; ++l) {
      h[l] = tracks.hit_at(t[l], i);
      module[l] = hits.module[h[l]];
    }
    m.x[i] = lanes([&](uint32_t l) { return hits.x[h[l]]; });
    m.y[i] = lanes([&](uint32_t l) { return hits.y[h[l]]; });
    m.z[i] = lanes([&](uint32_t l) { return hits.z[h[l]]; });
    auto const rotation = [&](uint32_t k) { return lanes([&](uint32_t l) { return table.rotation_at(module[l], k); }); };
    Reals const ax = rotation(0), ay = rotation(1), az = rotation(2), bx = rotation(3), by = rotation(4), bz = rotation(5);
    Reals const va = lanes([&](uint32_t l) { return hits.x_error2[h[l]]; }), vb = lanes([&](uint32_t l) { return hits.y_error2[h[l]]; });
    m.e[i][0] = va * ax * ax + vb * bx * bx;
    m.e[i][1] = va * ax * ay + vb * bx * by;
    m.e[i][2] = va * ay * ay + vb * by * by;
    m.e[i][3] = va * ax * az + vb * bx * bz;
    m.e[i][4] = va * ay * az + vb * by * bz;
    m.e[i][5] = va * az * az + vb * bz * bz;
  }
  return fit_helix<N>(m, cuts.field, cuts.upstream != 0);
}

// The helices of the first n lanes; one that is not good gives zeros.
HLT_FN void write_fits(uint32_t const (&t)[LANES], uint32_t n, HelixOf<Reals> const& helix, Tracks const& tracks) {
  Reals const pt = 1. / absolute(helix.qpt), eta = asinh_of(helix.cot);
  for (uint32_t l = 0; l < n; ++l) {
    bool const good = holds(helix.good, l);
    auto const write = [&](float* column, Reals const& value) { column[t[l]] = good ? float(lane(value, l)) : 0.f; };
    write(tracks.phi, helix.phi);
    write(tracks.tip, helix.tip);
    write(tracks.qpt, helix.qpt);
    write(tracks.cot, helix.cot);
    write(tracks.zip, helix.zip);
    write(tracks.pt, pt);
    write(tracks.eta, eta);
    tracks.chi2[t[l]] = good ? float(lane(helix.chi2, l)) : -1.f;
    for (uint32_t i = 0; i < 15; ++i) tracks.cov_at(t[l], i) = good ? float(lane(helix.cov[i], l)) : 0.f;
  }
}

HLT_FN void write_no_fit(uint32_t t, Tracks const& tracks) {
  tracks.phi[t] = tracks.tip[t] = tracks.qpt[t] = tracks.cot[t] = tracks.zip[t] = tracks.pt[t] = tracks.eta[t] = 0.f;
  tracks.chi2[t] = -1.f;
  for (uint32_t i = 0; i < 15; ++i) tracks.cov_at(t, i) = 0.f;
}

// Item: 256 track candidates. Duplicates get zeros, the others wait for the fit among those of as many hits: threads of a warp then do
// the same. The order within a queue is arbitrary; nothing depends on it.
HLT_FN void queue_fits(Team const& team, uint32_t item, FitCuts const& cuts, Batch const& batch, Tracks const& tracks,
                       FitQueue const& queue) {
  uint32_t* const first = team.scratch();  // place of the team's candidates in each queue
  uint32_t* const length[4] = {queue.n3, queue.n4, queue.n5, queue.n6};
  uint32_t const begin = item * FIT_GROUP, end = smaller(begin + FIT_GROUP, *batch.n_tracks);
  for (uint32_t t0 = begin; t0 < end; t0 += team.size()) {
    uint32_t const t = smaller(t0 + team.rank(), end - 1);
    bool const mine = t == t0 + team.rank(), fit = mine && tracks.quality[t] != TRACK_DUPLICATE;
    uint32_t const which = smaller(smaller(tracks.n_hits[t], cuts.max_fit_hits), 6u) - 3;
    if (mine && !fit) write_no_fit(t, tracks);
    uint64_t total;
    uint64_t const before = team.exclusive_scan(fit ? uint64_t(1) << 16 * which : 0, total);
    for (uint32_t q = team.rank(); q < 4; q += team.size()) first[q] = atomic_add(length[q], uint32_t(total >> 16 * q) & 0xffffu);
    team.sync();
    if (fit) queue.track_at(first[which] + (uint32_t(before >> 16 * which) & 0xffffu), which) = t;
    team.sync();
  }
  for (uint32_t q = team.rank(); q < 4; q += team.size()) first[q] = 0;
}

// Of the queued candidates those from `first` on, one in each lane. They may be fewer: what is left of the lanes does the first one again.
template <int N>
HLT_FN void fit_queued(uint32_t first, uint32_t queued, FitCuts const& cuts, ModuleTable const& table, Hits const& hits,
                       FitQueue const& queue, Tracks const& tracks) {
  uint32_t const n = smaller(LANES, queued - first);
  uint32_t t[LANES];
  for (uint32_t l = 0; l < LANES; ++l) t[l] = queue.track_at(l < n ? first + l : first, N - 3);
  write_fits(t, n, fit_hits<N>(cuts, table, hits, tracks, t), tracks);
}

// Items: the queued candidates of 3, 4, 5 and 6 hits, LANES at a time. Parameters, covariance, chi square; a fit that fails leaves the
// track bad, with zeros.
HLT_FN void fit_triplets(uint32_t first, uint32_t queued, FitCuts const& cuts, ModuleTable const& table, Hits const& hits,
                         FitQueue const& queue, Tracks const& tracks) {
  fit_queued<3>(first, queued, cuts, table, hits, queue, tracks);
}
HLT_FN void fit_quadruplets(uint32_t first, uint32_t queued, FitCuts const& cuts, ModuleTable const& table, Hits const& hits,
                            FitQueue const& queue, Tracks const& tracks) {
  fit_queued<4>(first, queued, cuts, table, hits, queue, tracks);
}
HLT_FN void fit_quintuplets(uint32_t first, uint32_t queued, FitCuts const& cuts, ModuleTable const& table, Hits const& hits,
                            FitQueue const& queue, Tracks const& tracks) {
  fit_queued<5>(first, queued, cuts, table, hits, queue, tracks);
}
HLT_FN void fit_sextuplets(uint32_t first, uint32_t queued, FitCuts const& cuts, ModuleTable const& table, Hits const& hits,
                           FitQueue const& queue, Tracks const& tracks) {
  fit_queued<6>(first, queued, cuts, table, hits, queue, tracks);
}

// Key by which tracks compete: least |tip|, then least number.
HLT_FN uint64_t tip_key(Tracks const& tracks, uint32_t t) { return uint64_t(float_bits(magnitude(tracks.tip[t]))) << 32 | t; }

// Item: a track candidate. Loose if chi square, impact parameters and momentum pass; loose tracks enter the competition of their cells.
HLT_FN void classify_tracks(uint32_t t, FitCuts const& cuts, UsedCells const& used, Tracks const& tracks) {
  if (tracks.quality[t] == TRACK_DUPLICATE || tracks.chi2[t] < 0.f) return;
  float const pt = tracks.pt[t], p = smaller(pt, cuts.chi2_max_pt);
  bool const triplet = tracks.n_hits[t] == 3;
  float const limit =
      (triplet ? cuts.triplet_chi2_scale : cuts.chi2_scale) * (cuts.chi2_0 + p * (cuts.chi2_1 + p * (cuts.chi2_2 + p * cuts.chi2_3)));
  if (!(tracks.chi2[t] < limit)) return;
  float const tip = tracks.tip[t];
  if (triplet && tip * tip > cuts.triplet_max_tip2 * tracks.cov_at(t, 5)) return;
  bool const passes = magnitude(tip) < (triplet ? cuts.triplet_max_tip : cuts.max_tip) &&
                      pt > (triplet ? cuts.triplet_min_pt : cuts.min_pt) && magnitude(tracks.zip[t]) < cuts.max_zip;
  if (!passes) return;
  tracks.quality[t] = TRACK_LOOSE;
  uint64_t const key = tip_key(tracks, t);
  for (uint32_t k = 0; k + 1 < tracks.n_hits[t]; ++k) atomic_min(&used.best[tracks.cell_at(t, k)], key);
}

// Item: a track candidate. A loose track is a duplicate unless it is the best of each of its cells. Who is left enters the
// competition of its hits.
HLT_FN void choose_by_cell(uint32_t t, UsedCells const& used, HitUses const& uses, Tracks const& tracks) {
  if (tracks.quality[t] != TRACK_LOOSE) return;
  uint32_t const n = tracks.n_hits[t];
  uint64_t const key = tip_key(tracks, t);
  bool wins = true;
  HLT_UNROLL
  for (uint32_t k = 0; k < MAX_TRACK_CELLS; ++k) wins &= used.best[tracks.cell_at(t, k + 1 < n ? k : 0)] == key;
  if (!wins) {
    tracks.quality[t] = TRACK_DUPLICATE;
    return;
  }
  for (uint32_t k = 0; k < n; ++k) atomic_max(&uses.longest[tracks.hit_at(t, k)], n);
}

// Item: a track candidate. Among triplets of a hit that no longer track uses, the one closest to the beam line wins.
HLT_FN void choose_by_hit(uint32_t t, HitUses const& uses, Tracks const& tracks) {
  if (tracks.quality[t] != TRACK_LOOSE || tracks.n_hits[t] != 3) return;
  uint64_t const key = tip_key(tracks, t);
  for (uint32_t k = 0; k < 3; ++k) atomic_min(&uses.best[tracks.hit_at(t, k)], key);
}

// Item: a track candidate. Applies both: shorter than a track that shares a hit, or a triplet that is not the best at each hit.
HLT_FN void resolve_hits(uint32_t t, HitUses const& uses, Tracks const& tracks, Results const& results) {
  if (tracks.quality[t] != TRACK_LOOSE) return;
  uint32_t const n = tracks.n_hits[t];
  uint64_t const key = tip_key(tracks, t);
  uint32_t hit[MAX_TRACK_HITS];
  bool wins = true;
  HLT_UNROLL
  for (uint32_t k = 0; k < MAX_TRACK_HITS; ++k) hit[k] = tracks.hit_at(t, k < n ? k : 0);
  HLT_UNROLL
  for (uint32_t k = 0; k < MAX_TRACK_HITS; ++k) wins &= (uses.longest[hit[k]] == n) & ((n > 3) | (uses.best[hit[k]] == key));
  if (!wins) {
    tracks.quality[t] = TRACK_DUPLICATE;
    return;
  }
  tally(&results.tracks[tracks.event[t]]);
  HLT_UNROLL
  for (uint32_t k = 0; k < MAX_TRACK_HITS; ++k)
    if (k < n) atomic_add(&uses.loose[hit[k]], 1u);
}

}  // namespace hlt
