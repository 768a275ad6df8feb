"""The mathematics of diffusion: schedules, the two processes, the objective, and sampling."""
