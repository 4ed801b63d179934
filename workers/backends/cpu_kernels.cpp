// The CPU backend: every kernel as a plain loop, and an executor that runs a whole plan in one call.
//
// Loaded with ctypes, which releases the GIL during a call; the (empty) Python module only makes it findable and importable.
#include <Python.h>

#include <chrono>
#include <cstdint>
#include <cstring>

namespace hlt_cpu {

using Function = void (*)(uint32_t const* items, void const* const* args, uint32_t* scratch);

struct Entry {
  char const* name;
  Function function;
};

// One launch of a plan. Mirrored by backends/cpu.py.
struct Step {
  Function function;
  uint32_t const* items;
  void const* const* args;
  uint32_t* scratch;
};

}  // namespace hlt_cpu

#include "kernels_cpu.gen.h"

// The module's name; setup.py compiles this file once per set of instructions.
#if !defined(HLT_MODULE)
#define HLT_MODULE cpu_kernels
#endif
#define HLT_JOIN_(a, b) a##b
#define HLT_JOIN(a, b) HLT_JOIN_(a, b)
#define HLT_TEXT_(a) #a
#define HLT_TEXT(a) HLT_TEXT_(a)

extern "C" {

// Whether this processor and its system run kernels that were built for these instructions.
__attribute__((visibility("default"))) int hlt_runs(char const* instructions) {
  if (std::strcmp(instructions, "baseline") == 0) return 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool const v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                  __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
  if (std::strcmp(instructions, "x86-64-v3") == 0) return v3;
#endif
  return 0;
}

// Kernel by name, or null.
__attribute__((visibility("default"))) void* hlt_find(char const* name) {
  for (auto const& entry : hlt_cpu::entries)
    if (std::strcmp(entry.name, name) == 0) return reinterpret_cast<void*>(entry.function);
  return nullptr;
}

// Runs the steps in order; adds the wall time of each to `seconds`.
__attribute__((visibility("default"))) void hlt_run(hlt_cpu::Step const* steps, uint32_t n, double* seconds) {
  auto before = std::chrono::steady_clock::now();
  for (uint32_t i = 0; i < n; ++i) {
    steps[i].function(steps[i].items, steps[i].args, steps[i].scratch);
    auto const after = std::chrono::steady_clock::now();
    seconds[i] += std::chrono::duration<double>(after - before).count();
    before = after;
  }
}

static PyModuleDef module_definition = {PyModuleDef_HEAD_INIT,
                                        HLT_TEXT(HLT_MODULE),
                                        "CPU kernels of hltfarm; see cpu_library.py",
                                        -1,
                                        nullptr,
                                        nullptr,
                                        nullptr,
                                        nullptr,
                                        nullptr};

PyMODINIT_FUNC HLT_JOIN(PyInit_, HLT_MODULE)() { return PyModule_Create(&module_definition); }
}
