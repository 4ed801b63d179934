"""The compiled CPU kernels: a module without names, its file is loaded with ctypes (cpu.py)."""
