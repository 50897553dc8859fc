"""The diffusion process: noise schedules, denoisers, the probability flow, codes, grids of timesteps."""
