// Features of loose tracks (docs/reconstruction.md): one column each, every value finite. In double precision, rounded once.
#pragma once
#include "fit/fit.cuh"

namespace hlt {

constexpr uint32_t PROFILE_BINS = 2560;         // of zip, 0.01 cm each, around the beam spot
constexpr double REFERENCE_THICKNESS = 0.0285;  // cm of silicon that charges are quoted for

// Feature `column` of selected track i: the columns of features lie at even distances.
HLT_FN float feature(Selected const& s, uint32_t column, uint32_t i) {
  uint64_t const stride = (uint64_t(s.capacity) * 4 + 127) / 128 * 32;
  return s.log_chi2[column * stride + i];
}

HLT_FN uint32_t profile_bin(float zip) {
  double const b = (double(zip) + 12.8) * 100.;
  return b > 0. ? (b < double(PROFILE_BINS - 1) ? uint32_t(b) : PROFILE_BINS - 1) : 0u;
}

HLT_FN double at_least(double v, double least) { return v > least ? v : least; }

HLT_FN float finite_float(double v) {
  float const f = float(v);
  return magnitude(f) <= 3.4e38f ? f : 0.f;
}

// Least, largest and mean value over the hits of a track, and those of its ends.
struct Spread {
  double first = 0., second = 0., last = 0., low = 0., high = 0., sum = 0.;
  HLT_FN void add(uint32_t place, double v, double summand) {
    if (place == 0) first = low = high = v;
    if (place == 1) second = v;
    last = v;
    if (v < low) low = v;
    if (v > high) high = v;
    sum += summand;
  }
};

// Length of a cluster beyond what the track's slope in the sensor predicts, in eighths of a pixel; 0 at the module's edge.
HLT_FN double excess(int32_t size, double length, double pitch) {
  double const predicted = 8. * length / pitch;
  return size > 0 ? double(size) - (predicted < 1023. ? predicted : 1023.) : 0.;
}

// Item: a selected track. O(hits of the track).
HLT_FN void make_features(uint32_t i, Detector const& det, FitCuts const& fit, ModuleTable const& modules, Hits const& hits,
                          HitCells const& info, HitUses const& uses, Tracks const& tracks, ZProfile const& profile, Selected const& out) {
  uint32_t const t = out.track[i], n = tracks.n_hits[t], event = tracks.event[t];
  double const tip = tracks.tip[t], cot = tracks.cot[t], pt = tracks.pt[t];
  double const var_tip = at_least(tracks.cov_at(t, 5), 1e-20), var_qpt = at_least(tracks.cov_at(t, 9), 1e-20);
  double const var_cot = at_least(tracks.cov_at(t, 12), 1e-20), var_zip = at_least(tracks.cov_at(t, 14), 1e-20);
  double const curvature = double(tracks.qpt[t]) * fit.field, a = 1. + curvature * tip;
  SinCos const direction = sin_cos_of(tracks.phi[t]);

  Spread charge, size_x, size_y;
  uint32_t layers = 0, last_layer = NONE, shared = 0;
  for (uint32_t k = 0; k < n; ++k) {
    uint32_t const h = tracks.hit_at(t, k), m = hits.module[h];
    double const x = hits.x[h], y = hits.y[h];
    double const ex = curvature * y + a * direction.cos, ey = a * direction.sin - curvature * x;
    double const norm = at_least(square_root(ex * ex + ey * ey), 1e-9), tx = ex / norm, ty = ey / norm;
    double u[3];  // direction of flight in the module's frame
    for (uint32_t axis = 0; axis < 3; ++axis)
      u[axis] = double(modules.rotation_at(m, 3 * axis)) * tx + double(modules.rotation_at(m, 3 * axis + 1)) * ty +
                double(modules.rotation_at(m, 3 * axis + 2)) * cot;
    if (absolute(u[2]) < 1e-3) u[2] = u[2] < 0. ? -1e-3 : 1e-3;
    double const slope_x = u[0] / u[2], slope_y = u[1] / u[2], thickness = modules.thickness[m];
    double const path = square_root(1. + slope_x * slope_x + slope_y * slope_y);
    double const lq = log_of(at_least(hits.charge[h], 1.) * REFERENCE_THICKNESS / (thickness * path));
    double const dy = excess(hits.size_y[h], thickness * absolute(slope_y), det.pitch_y);
    double const dx = excess(hits.size_x[h], absolute(thickness * slope_x - double(modules.charge_width_x[m])), det.pitch_x);
    charge.add(k, lq, lq);
    size_y.add(k, dy, absolute(dy));
    size_x.add(k, dx, absolute(dx));
    if (info.layer[h] != last_layer) ++layers;  // hits lie from the inside out: those of a layer follow one another
    last_layer = info.layer[h];
    shared += uses.loose[h] - 1;
  }
  uint32_t const inner = tracks.hit_at(t, 0), outer = tracks.hit_at(t, n - 1);
  double const log_pt = log_of(at_least(pt, 1e-3)), chi2 = at_least(tracks.chi2[t], 0.);

  out.log_chi2[i] = finite_float(log_of(chi2 + 1e-4));
  out.log_pt[i] = finite_float(log_pt);
  out.eta[i] = finite_float(tracks.eta[t]);
  out.abs_eta[i] = finite_float(magnitude(tracks.eta[t]));
  out.tip[i] = finite_float(tip);
  out.zip[i] = finite_float(tracks.zip[t]);
  out.n_hits[i] = float(n);
  out.n_layers[i] = float(layers);
  out.tip_significance[i] = finite_float(absolute(tip) / square_root(var_tip));
  out.log_tip_error[i] = finite_float(0.5 * log_of(var_tip));
  out.log_zip_error[i] = finite_float(0.5 * log_of(var_zip));
  out.log_cot_error[i] = finite_float(0.5 * log_of(var_cot));
  out.log_pt_error[i] = finite_float(0.5 * log_of(var_qpt) + log_pt);
  out.charge_min[i] = finite_float(charge.low);
  out.charge_max[i] = finite_float(charge.high);
  out.charge_mean[i] = finite_float(charge.sum / double(n));
  out.charge_first[i] = finite_float(charge.first);
  out.charge_last[i] = finite_float(charge.last);
  out.size_y_first[i] = finite_float(size_y.first);
  out.size_y_second[i] = finite_float(size_y.second);
  out.size_y_last[i] = finite_float(size_y.last);
  out.size_y_min[i] = finite_float(size_y.low);
  out.size_y_max[i] = finite_float(size_y.high);
  out.size_y_mean[i] = finite_float(size_y.sum / double(n));
  out.size_x_first[i] = finite_float(size_x.first);
  out.size_x_last[i] = finite_float(size_x.last);
  out.size_x_min[i] = finite_float(size_x.low);
  out.size_x_max[i] = finite_float(size_x.high);
  out.size_x_mean[i] = finite_float(size_x.sum / double(n));
  out.r_first[i] = finite_float(hits.r[inner]);
  out.abs_z_first[i] = finite_float(magnitude(hits.z[inner]));
  out.r_last[i] = finite_float(hits.r[outer]);
  out.abs_z_last[i] = finite_float(magnitude(hits.z[outer]));

  uint32_t const* const below = profile.below + uint64_t(event) * (PROFILE_BINS + 1);
  uint32_t const bin = profile_bin(tracks.zip[t]), itself = n >= 4 ? 1u : 0u;
  auto const neighbours = [&](uint32_t width) {
    uint32_t const first = bin > width ? bin - width : 0u, last = smaller(bin + width, PROFILE_BINS - 1);
    return finite_float(log_of(1. + double(below[last + 1] - below[first] - itself)));
  };
  out.neighbours_1[i] = neighbours(1);
  out.neighbours_2[i] = neighbours(2);
  out.neighbours_4[i] = neighbours(4);
  out.neighbours_8[i] = neighbours(8);
  out.neighbours_16[i] = neighbours(16);
  out.neighbours_64[i] = neighbours(64);
  out.shared_hits[i] = float(shared);
}

}  // namespace hlt
