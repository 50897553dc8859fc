"""DPM-OT: diffusion sampling that starts at noised images, picked by a semi-discrete transport map from white noise.

Images y_i are noised once, x_i = y_i + σ n_i, at a level near the end of a variance-exploding process. A map of
optimal transport carries white noise onto them, draws near its singular set are rejected, and annealed Langevin
dynamics through the last levels makes an image of the latent that is handed back. What the paper describes is done as
described, and what its code does otherwise (`published`) is done beside it. Two things follow without any experiment:

- the map has N values, so a sampler without noise gives N images at most;
- its masses are equal up to χ², so without a filter the latent that is handed back is any one of them, with equal
  chances: in law, "a random latent". The row without a map shows that.

Modules: `settings` (checked at once), `maps` (latents and the map), `published` (the authors' solver and filter),
`rows`, `sampling`, `filters`, `running`.

References:
    Li, Li, Wang, Lei, Luo & Gu, DPM-OT: a new diffusion probabilistic model based on optimal transport, ICCV 2023.
    https://arxiv.org/abs/2307.11308
"""

from __future__ import annotations

from otprior_studies.papers.dpm_ot.settings import Settings
from otprior_studies.papers.reproduction import Reproduction

__all__ = ["REPRODUCTION", "Settings"]

REPRODUCTION = Reproduction(
    paper="DPM-OT: a new diffusion probabilistic model based on optimal transport (arXiv:2307.11308)",
    summary="Frozen latents through annealed Langevin dynamics, at the published noise level and larger ones, with "
    "and without the filter, as the paper describes it and as its code does it.",
    settings=Settings,
    fast={"atoms": 1000, "code_atoms": 200, "code_steps": 50, "tol": 0.2, "filter_draws": 5000},
    running="otprior_studies.papers.dpm_ot.running",
    samples=(2000, 60),
    minutes="About three quarters of an hour on two cores; a rehearsal takes about three minutes.",
)
