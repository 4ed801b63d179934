// menu: the decision on an event from its quantities, and the digest that identifies its reconstruction.
#pragma once
#include "dnn/mlp.cuh"

namespace hlt {

// Quantity q of an event; the order is that of QUANTITIES in menu.py.
HLT_FN double quantity(uint32_t q, Results const& results, uint32_t event) {
  switch (q) {
    case 0: return results.modules[event];
    case 1: return results.digis[event];
    case 2: return results.pixels[event];
    case 3: return results.clusters[event];
    case 4: return results.hits[event];
    case 5: return results.fed_errors[event];
    case 6: return results.word_errors[event];
    case 7: return results.doublets[event];
    case 8: return results.ntuplets[event];
    case 9: return results.tracks[event];
    case 10: return results.vertices[event];
    case 11: return results.displaced_tracks[event];
    case 12: return results.leading_pt[event];
    case 13: return results.best_sum_pt2[event];
    case 14: return results.tracks_high_purity[event];
    case 15: return results.hard_tracks[event];
    case 16: return results.best_tracks[event];
    case 17: return results.sum_pt[event];
    case 18: return results.best_sum_pt[event];
    case 19: return results.second_sum_pt2[event];
    case 20: return results.vertex_ht[event];
    case 21: return results.vertex_pt2[event];
    default: return results.event_score[event];
  }
}

// Item: an event. Completes its quantities: sums from fixed point, the classifier's score. O(weights).
HLT_FN void score_event(uint32_t event, Selection const& selection, ModelInputs const& inputs, ModelLayers const& layers,
                        ModelWeights const& weights, Events const& events, Results const& results) {
  results.sum_pt[event] = float(double(events.sum_pt[event]) / 1024.);
  if (selection.event_layers == 0) return;
  float score[MLP_ROWS];
  mlp(
      selection.event_layer, selection.event_layers, inputs, selection.event_input, layers, weights,
      [&](uint32_t, uint32_t q) { return float(quantity(q, results, event)); }, score);
  results.event_score[event] = score[0] >= 0.f && score[0] <= 1.f ? score[0] : 0.f;
}

// Item: an event. Bit p of path_raw: all cuts of path p hold; of path_bits: and the prescale keeps the event, which depends on
// nothing but run, event number and the path's name. O(cuts).
HLT_FN void decide(uint32_t event, Batch const& batch, Events const& events, Paths const& paths, Cuts const& cuts, Results const& results) {
  uint64_t raw = 0, kept = 0;
  uint64_t const identity = mix(batch.run[event], batch.event[event]);
  for (uint32_t p = 0; p < *paths.n_paths; ++p) {
    bool pass = true;
    for (uint32_t c = paths.first_cut[p]; c < paths.first_cut[p + 1]; ++c) {
      double const value = quantity(cuts.quantity[c], results, event);
      pass = pass && value >= cuts.low[c] && value <= cuts.high[c];
    }
    if (!pass) continue;
    raw |= uint64_t(1) << p;
    uint32_t const prescale = paths.prescale[p];
    if (prescale != 0 && mix(identity, paths.salt[p]) % prescale == 0) kept |= uint64_t(1) << p;
  }
  results.path_raw[event] = raw;
  results.path_bits[event] = kept;
  results.accept[event] = kept != 0;

  uint64_t digest = events.digest[event];
  digest = mix(digest, uint64_t(results.flags[event]) << 32 | results.modules[event]);
  digest = mix(digest, uint64_t(results.digis[event]) << 32 | results.pixels[event]);
  digest = mix(digest, uint64_t(results.clusters[event]) << 32 | results.hits[event]);
  digest = mix(digest, uint64_t(results.doublets[event]) << 32 | results.ntuplets[event]);
  digest = mix(digest, uint64_t(results.tracks[event]) << 32 | results.tracks_high_purity[event]);
  digest = mix(digest, results.vertices[event]);
  digest = mix(digest, uint64_t(results.displaced_tracks[event]) << 32 | results.hard_tracks[event]);
  digest = mix(digest, uint64_t(float_bits(results.sum_pt[event])) << 32 | float_bits(results.event_score[event]));
  digest = mix(digest, uint64_t(float_bits(results.vertex_ht[event])) << 32 | float_bits(results.vertex_pt2[event]));
  results.digest[event] = mix(digest, uint64_t(results.fed_errors[event]) << 32 | results.word_errors[event]);
}

}  // namespace hlt
