"""Faults under load, and whether the books close all the same (`hltfarm chaos`).

`plan`, `recovery`, `books` are pure; `farm`, `load`, `watch`, `leftovers`, `proxy`, `disk` talk to processes, sockets and files.
Each family of faults has a file: `processes`, `batches`, `network`, `vandal`, `full_disk`. `round` puts
them together, `campaign` repeats it.
"""
