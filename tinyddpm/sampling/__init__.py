"""Sampling: the way back from noise to data, and what the latents hold."""
