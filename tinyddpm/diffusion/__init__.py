"""The mathematics of diffusion: schedules, the two processes, the objectives, and the bound."""
