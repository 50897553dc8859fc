"""Prior mismatch: p_T is not what sampling starts from; what that costs in samples, and what a corrected start mends.

The paper measures W2 between where the forward process ends and where the reverse process begins, and removes it by a
transport map from N(0, I). Here that is done for networks of six schedules that differ in how much of the image they
leave at T (`training.schedules`), trained on the same images with the same seed:

- *at T*: N(0, I) as usual; the gaussian prior, the transport map onto the Gaussian with p_T's moments; the semidiscrete
  map with fresh noise, whose law is the data's p_T up to the cells' masses; and coupled;
- *at t\\**, of log-SNR −2 in every schedule: the same, where the error of N(0, I) is large whatever the schedule;
- each for all images and class by class, W2 as an interval for the given data and for the population;
- the competing fix, a schedule that ends at zero SNR with v-prediction (Lin et al., 2023): nothing is left to correct.

The images are the bundled Fashion-MNIST at 16 x 16 (padded to 32 x 32, averaged over 2 x 2), so that six networks can
be trained in under an hour. Settings are fixed beforehand, none is chosen by its results.

Modules: `settings` (checked at once), `images`, `rows`, `errors`, `tables`, `running`.

References:
    Wang et al., Solving prior distribution mismatch in diffusion models via optimal transport (2024),
    https://arxiv.org/abs/2410.13431
"""

from __future__ import annotations

from otprior_studies.papers.prior_mismatch.settings import Settings
from otprior_studies.papers.reproduction import Reproduction

__all__ = ["REPRODUCTION", "Settings"]

REPRODUCTION = Reproduction(
    paper="Solving prior distribution mismatch in diffusion models via optimal transport (arXiv:2410.13431)",
    summary="Networks of six schedules trained anew; prior error and excess FID before and after a correction at T "
    "and at t*, for all images and by class.",
    settings=Settings,
    fast={
        "schedules": "shifted:16,zero-snr",
        "steps": 20,
        "epochs": 1,
        "atoms": 500,
        "many": 12,
        "tol": 0.2,
        "draws": 4,
    },
    running="otprior_studies.papers.prior_mismatch.running",
    samples=(1500, 24),
    minutes="About an hour and three quarters on two cores; a rehearsal takes a few minutes.",
)
