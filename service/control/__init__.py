"""The control plane: run control over HTTP, status, health and metrics of one or more ingests. Imports neither torch nor cupy."""
