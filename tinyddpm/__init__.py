"""Denoising Diffusion Probabilistic Models (Ho, Jain, Abbeel 2020), built from scratch in NumPy."""

from tinyddpm.dispatch import use

__version__ = "0.1.0"

use("numpy")
