"""Detector simulation: generated collisions to raw pixel data with the truth kept. See docs/simulation.md."""
