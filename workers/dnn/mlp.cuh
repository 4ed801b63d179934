// A small dense network, the same bits on every backend: sums run over the inputs in their order, starting from the bias.
#pragma once
#include "fit/fit.cuh"

namespace hlt {

constexpr uint32_t MLP_MAX_WIDTH = 128;  // of inputs and of every layer
constexpr uint32_t MLP_BLOCK = 16;       // outputs computed together, in registers; rows of weights are padded to it
constexpr float MLP_CLAMP = 8.f;         // of normalised inputs

// MLP_BLOCK sums side by side. Each is a sum of its own, in the order of the inputs, so the width of the machine does not matter.
#if defined(__CUDACC__)
struct Lanes {
  float v[MLP_BLOCK];
  HLT_FN void load(float const* from) { HLT_UNROLL for (uint32_t j = 0; j < MLP_BLOCK; ++j) v[j] = from[j]; }
  HLT_FN void add(float x, float const* row) { HLT_UNROLL for (uint32_t j = 0; j < MLP_BLOCK; ++j) v[j] += x * row[j]; }
  HLT_FN void store_positive(float* to) const { HLT_UNROLL for (uint32_t j = 0; j < MLP_BLOCK; ++j) to[j] = v[j] > 0.f ? v[j] : 0.f; }
};
#else
struct Lanes {
  typedef float Four __attribute__((vector_size(16)));
  static_assert(MLP_BLOCK == 16, "four vectors of four");
  Four a, b, c, d;  // by name: the compiler keeps an array in memory
  static Four read(float const* from) {
    Four v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
  }
  static void write(Four v, float* to) {
    Four const positive = v > 0.f ? v : Four{};
    __builtin_memcpy(to, &positive, sizeof positive);
  }
  void load(float const* from) {
    a = read(from);
    b = read(from + 4);
    c = read(from + 8);
    d = read(from + 12);
  }
  void add(float x, float const* row) {
    a += x * read(row);
    b += x * read(row + 4);
    c += x * read(row + 8);
    d += x * read(row + 12);
  }
  void store_positive(float* to) const {
    write(a, to);
    write(b, to + 4);
    write(c, to + 8);
    write(d, to + 12);
  }
};
#endif

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
      Lanes sum;
      sum.load(b + o);
      HLT_UNROLL_4
      for (uint32_t k = 0; k < n_in; ++k) sum.add(x[k], w + k * n_out + o);
      sum.store_positive(y + o);
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
