// dnn: loose tracks -> features -> score -> high-purity tracks. Models are tables; torch models run between two kernels of this stage,
// on the same columns.
#pragma once
#include "dnn/features.cuh"
#include "dnn/mlp.cuh"

namespace hlt {

// Tracks of an event that can be scored: a share of its payload's length.
HLT_FN uint32_t selected_capacity(Selection const& selection, Batch const& batch, uint32_t event) {
  return (batch.payload_words[event] + 31) / 32 * 32 / selection.words_per_selected;
}

// Item: an event. Tracks it gives to the selector; more than fit are flagged, the last ones stay loose. O(1).
HLT_FN void number_selected(uint32_t event, Selection const& selection, Batch const& batch, Events const& events, Results const& results) {
  uint32_t const most = selected_capacity(selection, batch, event), n = results.tracks[event];
  events.selected[event] = smaller(n, most);
  if (n > most) atomic_or(&results.flags[event], FLAG_TRACK_OVERFLOW);
}

// Item: the batch.
HLT_FN void place_selected(Team const& team, uint32_t, Batch const& batch, Events const& events) {
  scan_events(team, batch, events.selected, events.selected_offset);
  if (team.rank() == 0) *batch.n_selected = events.selected_offset[*batch.n_events];
}

// Item: an event. Its loose tracks in their order, and the profile of zip of those of four and more hits. O(tracks + bins).
HLT_FN void list_selected(Team const& team, uint32_t event, Events const& events, Tracks const& tracks, ZProfile const& profile,
                          Selected const& out) {
  uint32_t* const counts = team.scratch();
  uint32_t const first = events.track_offset[event], last = events.track_offset[event + 1];
  uint32_t const end = events.selected_offset[event + 1];
  list_in_order(
      team, first, last, events.selected_offset[event], [&](uint32_t t) { return tracks.quality[t] == TRACK_LOOSE; },
      [&](uint32_t place, uint32_t t) {
        if (place < end) {
          out.track[place] = t;
          out.score[place] = 0.f;
        }
        if (tracks.n_hits[t] >= 4) atomic_add(&counts[profile_bin(tracks.zip[t])], 1u);
      });
  team.sync();
  uint32_t* const below = profile.below + uint64_t(event) * (PROFILE_BINS + 1);
  uint32_t sum = 0;
  for (uint32_t b0 = 0; b0 < PROFILE_BINS; b0 += team.size()) {
    uint32_t const b = b0 + team.rank();
    uint32_t total;
    uint32_t const before = sum + team.exclusive_scan(b < PROFILE_BINS ? counts[b] : 0u, total);
    sum += total;
    if (b >= PROFILE_BINS) continue;
    below[b] = before;
    counts[b] = 0;
  }
  if (team.rank() == 0) below[PROFILE_BINS] = sum;
  team.sync();
}

// Item: a selected track. Score 1 if it passes every cut that concerns its number of hits, else 0. O(cuts).
HLT_FN void score_cuts(uint32_t i, Selection const& selection, ModelCuts const& cuts, Tracks const& tracks, Selected const& s) {
  uint32_t const n = tracks.n_hits[s.track[i]];
  bool pass = true;
  for (uint32_t c = 0; c < selection.n_cuts; ++c) {
    float const x = feature(s, cuts.feature[c], i);
    bool const concerned = n >= cuts.min_hits[c] && n <= cuts.max_hits[c];
    pass = pass && !(concerned && !(x >= cuts.low[c] && x <= cuts.high[c]));
  }
  s.score[i] = pass ? 1.f : 0.f;
}

// Items: the selected tracks, MLP_ROWS at a time; where there are fewer, the last one again. O(weights).
HLT_FN void score_mlp(uint32_t first, uint32_t selected, Selection const& selection, ModelInputs const& inputs, ModelLayers const& layers,
                      ModelWeights const& weights, Selected const& s) {
  float score[MLP_ROWS];
  mlp(
      selection.first_layer, selection.n_layers, inputs, selection.first_input, layers, weights,
      [&](uint32_t row, uint32_t column) { return feature(s, column, smaller(first + row, selected - 1)); }, score);
  for (uint32_t r = 0; r < MLP_ROWS && first + r < selected; ++r) s.score[first + r] = score[r];
}

// Item: a selected track. Leaf values are added in the order of the trees. O(trees * depth).
HLT_FN void score_forest(uint32_t i, Selection const& selection, ModelTrees const& trees, ModelNodes const& nodes, Selected const& s) {
  float sum = selection.forest_base;
  for (uint32_t t = 0; t < selection.n_trees; ++t) {
    uint32_t node = trees.root[t];
    while (nodes.left[node] != NONE)
      node = feature(s, nodes.feature[node], i) <= nodes.threshold[node] ? nodes.left[node] : nodes.right[node];
    sum += nodes.value[node];
  }
  s.score[i] = sigmoid(sum);
}

// Item: a selected track. The score goes to the track; from the threshold on it is of high purity.
HLT_FN void apply_scores(uint32_t i, Selection const& selection, Tracks const& tracks, Selected const& s, Results const& results) {
  uint32_t const t = s.track[i];
  float const score = s.score[i];
  float const clean = score >= 0.f && score <= 1.f ? score : 0.f;  // a model may return anything, not a number too
  tracks.score[t] = clean;
  if (clean < (tracks.n_hits[t] == 3 ? selection.triplet_threshold : selection.longer_threshold)) return;
  tracks.quality[t] = TRACK_HIGH_PURITY;
  tally(&results.tracks_high_purity[tracks.event[t]]);
}

// Item: a track candidate. Its part in the event's quantities. Sums in fixed point, 1/1024 GeV.
HLT_FN void count_quantities(uint32_t t, Selection const& selection, Events const& events, Tracks const& tracks, Results const& results) {
  uint32_t const event = tracks.event[t];
  bool const counts = tracks.quality[t] >= selection.min_quality && tracks.n_hits[t] >= selection.min_hits;
  float const pt = counts ? tracks.pt[t] : 0.f;
  bool const summed = counts && pt >= selection.sum_min_pt;
  add_for_event(events.sum_pt, event, summed ? uint64_t(smaller(pt, selection.sum_max_pt) * 1024.f) : 0);
  if (!counts) return;
  if (pt > results.leading_pt[event]) atomic_max(&results.leading_pt[event], pt);
  if (pt >= selection.hard_min_pt) tally(&results.hard_tracks[event]);
  bool const displaced = pt >= selection.displaced_min_pt && magnitude(tracks.tip[t]) >= selection.displaced_min_tip;
  if (displaced) tally(&results.displaced_tracks[event]);
}

// Items: track candidates, DIGESTS at a time. Their part of the event's digest: everything about them, hits by their place in the event.
// The score of a torch model is left out: it is equal to 1e-5 only.
HLT_FN void digest_tracks(uint32_t first, uint32_t n_tracks, Selection const& selection, Events const& events, Tracks const& tracks) {
  uint32_t t[DIGESTS], n[DIGESTS], event[DIGESTS], most = 0;
  uint64_t h[DIGESTS];
  for (uint32_t r = 0; r < DIGESTS; ++r) {
    t[r] = smaller(first + r, n_tracks - 1);
    n[r] = tracks.n_hits[t[r]];
    event[r] = tracks.event[t[r]];
    most = larger(most, n[r]);
    h[r] = mix(uint64_t(t[r] - events.track_offset[event[r]]) << 32 | n[r] << 8 | tracks.quality[t[r]]);
  }
  for (uint32_t k = 0; k < most; ++k)
    for (uint32_t r = 0; r < DIGESTS; ++r)
      if (k < n[r]) h[r] = mix(h[r], tracks.hit_at(t[r], k) - events.hit_offset[event[r]]);
  auto const add = [&](float const* high, float const* low) {
    for (uint32_t r = 0; r < DIGESTS; ++r) h[r] = mix(h[r], uint64_t(float_bits(high[t[r]])) << 32 | float_bits(low[t[r]]));
  };
  add(tracks.phi, tracks.tip);
  add(tracks.qpt, tracks.cot);
  add(tracks.zip, tracks.chi2);
  add(tracks.pt, tracks.eta);
  for (uint32_t k = 0; k < 15; ++k)
    for (uint32_t r = 0; r < DIGESTS; ++r) h[r] = mix(h[r], float_bits(tracks.cov_at(t[r], k)));
  for (uint32_t r = 0; r < DIGESTS && first + r < n_tracks; ++r)
    add_for_event(events.digest, event[r], mix(h[r], selection.exact_scores ? float_bits(tracks.score[t[r]]) : 0u));
}

}  // namespace hlt
