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

extern "C" {

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

static PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "cpu_kernels", "CPU kernels of hltfarm; see cpu.py", -1, nullptr, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit_cpu_kernels() { return PyModule_Create(&module_definition); }
}
