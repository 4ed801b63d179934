// A small dense network, the same bits on every backend: sums run over the inputs in their order, starting from the bias.
#pragma once
#include "fit/fit.cuh"

namespace hlt {

constexpr uint32_t MLP_MAX_WIDTH = 128;  // of inputs and of every layer
constexpr uint32_t MLP_BLOCK = 16;       // outputs computed together, in registers; rows of weights are padded to it
constexpr float MLP_CLAMP = 8.f;         // of normalised inputs

HLT_FN float sigmoid(float x) { return float(1. / (1. + exp_of(-double(x)))); }

// Score of one element; `value(column)` gives an input. Weights are stored input by input (a row of all outputs each).
template <class Value>
HLT_FN float mlp(uint32_t first_layer, uint32_t n_layers, ModelInputs const& inputs, uint32_t first_input, ModelLayers const& layers,
                 ModelWeights const& weights, Value value) {
  float x[MLP_MAX_WIDTH], y[MLP_MAX_WIDTH];
  for (uint32_t k = 0, n = layers.inputs[first_layer]; k < n; ++k) {
    uint32_t const i = first_input + k;
    float const z = (value(inputs.column[i]) - inputs.mean[i]) * inputs.scale[i];
    x[k] = z < -MLP_CLAMP ? -MLP_CLAMP : (z > MLP_CLAMP ? MLP_CLAMP : z);
  }
  for (uint32_t l = first_layer; l + 1 < first_layer + n_layers; ++l) {
    uint32_t const n_in = layers.inputs[l], n_out = layers.outputs[l];
    float const* const w = weights.value + layers.weights[l];
    float const* const b = weights.value + layers.biases[l];
    for (uint32_t o = 0; o < n_out; o += MLP_BLOCK) {
      float sum[MLP_BLOCK];
      HLT_UNROLL
      for (uint32_t j = 0; j < MLP_BLOCK; ++j) sum[j] = b[o + j];
      for (uint32_t k = 0; k < n_in; ++k) {
        float const* const row = w + k * n_out + o;
        float const input = x[k];
        HLT_UNROLL
        for (uint32_t j = 0; j < MLP_BLOCK; ++j) sum[j] += input * row[j];
      }
      HLT_UNROLL
      for (uint32_t j = 0; j < MLP_BLOCK; ++j) y[o + j] = sum[j] > 0.f ? sum[j] : 0.f;
    }
    for (uint32_t o = 0; o < n_out; ++o) x[o] = y[o];
  }
  uint32_t const l = first_layer + n_layers - 1;
  float const* const w = weights.value + layers.weights[l];
  float sum = weights.value[layers.biases[l]];
  for (uint32_t k = 0, n = layers.inputs[l]; k < n; ++k) sum += x[k] * w[k];
  return sigmoid(sum);
}

}  // namespace hlt
