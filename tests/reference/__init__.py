"""The slow, obvious definition of the reconstruction: NumPy and SciPy, no cleverness.

Written from the specification (docs/architecture.md, docs/wire-format.md), not from the kernels. Where a backend and this package disagree,
one of the two is wrong: find out which, do not loosen the test.
"""
