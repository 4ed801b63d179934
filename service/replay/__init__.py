"""`hltfarm replay`: events of the error stream again, in a process that may die of them.

bundle.py reads what the error stream wrote; child.py reconstructs, session.py runs it with a time limit; verdict.py judges, report.py
tells.
"""
