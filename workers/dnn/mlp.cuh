// A small dense network, the same bits on every backend: sums run over the inputs in their order, starting from the bias.
#pragma once
#include "fit/fit.cuh"

namespace hlt {

constexpr uint32_t MLP_MAX_WIDTH = 128;  // of inputs and of every layer
constexpr uint32_t MLP_BLOCK = 16;       // outputs computed together, in registers; rows of weights are padded to it
constexpr float MLP_CLAMP = 8.f;         // of normalised inputs

// MLP_ROWS x MLP_BLOCK sums side by side: outputs of several elements that share the weights. Each is a sum of its own, in the order of
// the inputs, so the width of the machine does not matter.
#if defined(__CUDACC__)
constexpr uint32_t MLP_ROWS = 1;
typedef float MlpVector;
HLT_FN float read_vector(float const* from) { return *from; }
HLT_FN void write_vector(float v, float* to) { *to = v; }
#else
#if defined(__AVX__)
constexpr uint32_t MLP_ROWS = 4;  // as many sums as hide the latency of an addition and fit the registers
typedef float MlpVector __attribute__((vector_size(32)));
#else
constexpr uint32_t MLP_ROWS = 2;
typedef float MlpVector __attribute__((vector_size(16)));
#endif
HLT_FN MlpVector read_vector(float const* from) {
  MlpVector v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
HLT_FN void write_vector(MlpVector v, float* to) { __builtin_memcpy(to, &v, sizeof v); }
#endif
constexpr uint32_t MLP_VECTORS = MLP_BLOCK * 4 / sizeof(MlpVector);

struct MlpSums {
  MlpVector v[MLP_ROWS][MLP_VECTORS];

  HLT_FN void load(float const* from) {
    HLT_UNROLL
    for (uint32_t r = 0; r < MLP_ROWS; ++r) HLT_UNROLL
    for (uint32_t j = 0; j < MLP_VECTORS; ++j) v[r][j] = read_vector(from + j * MLP_BLOCK / MLP_VECTORS);
  }
  HLT_FN void add(float const* x, uint32_t stride, float const* weights) {
    HLT_UNROLL
    for (uint32_t r = 0; r < MLP_ROWS; ++r) HLT_UNROLL
    for (uint32_t j = 0; j < MLP_VECTORS; ++j) v[r][j] += x[r * stride] * read_vector(weights + j * MLP_BLOCK / MLP_VECTORS);
  }
  HLT_FN void store_positive(float* to, uint32_t stride) const {
    HLT_UNROLL
    for (uint32_t r = 0; r < MLP_ROWS; ++r) HLT_UNROLL
    for (uint32_t j = 0; j < MLP_VECTORS; ++j) {
      write_vector(v[r][j] > 0.f ? v[r][j] : MlpVector(), to + r * stride + j * MLP_BLOCK / MLP_VECTORS);
    }
  }
};

HLT_FN float sigmoid(float x) { return float(1. / (1. + exp_of(-double(x)))); }

// Scores of the elements 0 .. MLP_ROWS - 1; `value(element, column)` gives an input. Weights are stored input by input (a row of all
// outputs each).
template <class Value>
HLT_FN void mlp(uint32_t first_layer, uint32_t n_layers, ModelInputs const& inputs, uint32_t first_input, ModelLayers const& layers,
                ModelWeights const& weights, Value value, float (&score)[MLP_ROWS]) {
  float x[MLP_ROWS * MLP_MAX_WIDTH], y[MLP_ROWS * MLP_MAX_WIDTH];
  for (uint32_t k = 0, n = layers.inputs[first_layer]; k < n; ++k) {
    uint32_t const i = first_input + k;
    for (uint32_t r = 0; r < MLP_ROWS; ++r) {
      float const z = (value(r, inputs.column[i]) - inputs.mean[i]) * inputs.scale[i];
      x[r * MLP_MAX_WIDTH + k] = z < -MLP_CLAMP ? -MLP_CLAMP : (z > MLP_CLAMP ? MLP_CLAMP : z);
    }
  }
  for (uint32_t l = first_layer; l + 1 < first_layer + n_layers; ++l) {
    uint32_t const n_in = layers.inputs[l], n_out = layers.outputs[l];
    float const* const w = weights.value + layers.weights[l];
    float const* const b = weights.value + layers.biases[l];
    for (uint32_t o = 0; o < n_out; o += MLP_BLOCK) {
      MlpSums sum;
      sum.load(b + o);
      HLT_UNROLL_4
      for (uint32_t k = 0; k < n_in; ++k) sum.add(x + k, MLP_MAX_WIDTH, w + k * n_out + o);
      sum.store_positive(y + o, MLP_MAX_WIDTH);
    }
    for (uint32_t r = 0; r < MLP_ROWS; ++r)
      for (uint32_t o = 0; o < n_out; ++o) x[r * MLP_MAX_WIDTH + o] = y[r * MLP_MAX_WIDTH + o];
  }
  uint32_t const l = first_layer + n_layers - 1;
  float const* const w = weights.value + layers.weights[l];
  for (uint32_t r = 0; r < MLP_ROWS; ++r) {
    float sum = weights.value[layers.biases[l]];
    for (uint32_t k = 0, n = layers.inputs[l]; k < n; ++k) sum += x[r * MLP_MAX_WIDTH + k] * w[k];
    score[r] = sigmoid(sum);
  }
}

}  // namespace hlt
