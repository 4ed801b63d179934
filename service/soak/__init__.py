"""A farm under a steady load for a long time, and whether anything grows (`hltfarm soak`).

`trend` and `verdict` are pure; `footprint` reads what processes use, `latency` what the clients measure, `run` puts them together.
"""
