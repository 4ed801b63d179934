"""Backends: the same kernels on the host's threads or on a CUDA device."""
