// Features of loose tracks (docs/reconstruction.md): one column each, every value finite.
#pragma once
#include "fit/fit.cuh"

namespace hlt {

// Feature `column` of selected track i: the columns of features lie at even distances.
HLT_FN float feature(Selected const& s, uint32_t column, uint32_t i) {
  uint64_t const stride = (uint64_t(s.capacity) * 4 + 127) / 128 * 32;
  return s.chi2[column * stride + i];
}

HLT_FN float finite(float v) { return magnitude(v) <= 1e30f ? v : 0.f; }

// Item: a selected track. O(hits of the track).
HLT_FN void make_features(uint32_t i, Tracks const& tracks, Selected const& out) {
  uint32_t const t = out.track[i];
  out.chi2[i] = tracks.chi2[t];
  out.zip_error[i] = finite(square_root(tracks.cov_at(t, 14)));
  out.tip_error[i] = finite(square_root(tracks.cov_at(t, 5)));
  out.eta[i] = tracks.eta[t];
  out.n_hits[i] = float(tracks.n_hits[t]);
  out.phi[i] = tracks.phi[t];
  out.phi_error[i] = finite(square_root(tracks.cov_at(t, 0)));
  out.pt[i] = tracks.pt[t];
  out.qpt_error[i] = finite(square_root(tracks.cov_at(t, 9)));
  out.zip[i] = tracks.zip[t];
  out.tip[i] = tracks.tip[t];
}

}  // namespace hlt
