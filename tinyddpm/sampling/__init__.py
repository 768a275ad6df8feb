"""Sampling: the walk back from noise to data, and what lies on the way."""
