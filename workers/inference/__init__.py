"""What direct inference is worth: models on the columns where they lie against copies, and the engines by size of the model.

`hltfarm bench inference` runs it; docs/direct-inference.md defines what is measured. cases.py names the models and their columns, paths.py
the ways from columns to columns, engines.py the engines by number of parameters, harness.py runs and checks all points.
"""
