"""DPM-OT: diffusion sampling that starts at noised images, picked by a semi-discrete transport map from white noise.

Images y_i are noised once, x_i = y_i + σ n_i, at a level near the end of a variance-exploding process. A map of
optimal transport carries white noise onto them, draws near its singular set are rejected, and annealed Langevin
dynamics through the last levels makes an image of the latent that is handed back. What the paper describes is done as
described, and what its code does otherwise (`published`) is done, too. Two things follow without any experiment:

- the map has N values, so a sampler without noise gives N images at most;
- its masses are equal up to χ², so without a filter the latent that is handed back is any one of them, with equal
  chances: in law, "a random latent". The start without a map shows that.

Settings are checked at once; nothing heavy is imported here. Noise levels are given as in the paper's code, for pixels
in [0, 1]. Networks and images here live in [−1, 1], where every level is twice as large; steps are relative to the
level and are the same in both.

Modules: `maps` (latents and the map), `published` (the authors' solver and filter), `singular` and `filters` (draws
near the map's jumps), `langevin` and `sampling` (from latents to images), `starts` (what is compared), `reports`.

References:
    Li, Li, Wang, Lei, Luo & Gu, DPM-OT: a new diffusion probabilistic model based on optimal transport, ICCV 2023.
    https://arxiv.org/abs/2307.11308
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from otprior.experiments.study import Size, Study
from otprior.utils.validation import check_choice, check_integer, require

# Settings that name a network of one's own, and what is needed with it.
OWN = ("model", "images", "reference", "held_out", "extractor")
# Noise levels beyond the published one at which latents are handed back.
LARGER_LEVELS = (0.05, 0.15, 0.5, 1.5)


@dataclass(frozen=True)
class Settings:
    """Settings of a run; the defaults are those published for CIFAR-10, but for numbers of atoms and the filter.

    Attributes:
        sigma_begin: The largest noise level σ_0.
        sigma_end: The smallest, σ_{levels − 1}.
        levels: Number of geometric levels.
        level: That of the latents, 0 to levels − 1; 222 of 232 has σ = 0.0139.
        calls: Langevin steps from a start; one evaluation more denoises.
        steps_per_level: n, in the sampler as published; it runs through the last calls/n levels.
        step: η, relative to the square of a level; the published step of 6.2e-6 at σ = 0.01.
        topk: Neighbours that the filter looks at, the cell itself included.
        threshold: Angle in radians beyond which a draw of the published latents is rejected. (Noise turns latents away
            from each other: at a larger level it is the angle that keeps the same share of the draws.)
        batch_threshold: The same as the authors' code has it, for angles that are rescaled to [0, 1] in each batch.
        atoms: Training images behind the latents.
        code_atoms: The same for the authors' solver, which takes N² products a step.
        code_steps: Steps of that solver.
        tol: χ² of the cell masses that our own solver reaches.
        mixture: Probability that two classes of a mixed image reach.
        sampling: Precision of the network when it samples: "float32", "bfloat16", or "auto" for the faster one here.
        filter_draws: Draws on which acceptance and χ² of filters are measured.
        model: A diffusers folder of a variance-preserving network, in place of the bundled one; then also:
        images: Training images, a folder or file: what latents are made of and could be copied.
        reference: Images that quality is measured against.
        held_out: Images that no network and no start was made of, for the floor.
        extractor: Folder of a classifier of these images, as `otprior.metrics.features.save_extractor` writes it.
        null_label: The network's label for no class; −1 if its folder says so, or there are no classes.
    """

    sigma_begin: float = 50.0
    sigma_end: float = 0.01
    levels: int = 232
    level: int = 222
    calls: int = 10
    steps_per_level: int = 5
    step: float = 0.062
    topk: int = 2
    threshold: float = 0.6
    batch_threshold: float = 0.7
    atoms: int = 10_000
    code_atoms: int = 1_000
    code_steps: int = 1_000
    tol: float = 0.05
    mixture: float = 0.2
    sampling: str = "auto"
    filter_draws: int = 100_000
    model: str = ""
    images: str = ""
    reference: str = ""
    held_out: str = ""
    extractor: str = ""
    null_label: int = -1

    def __post_init__(self) -> None:
        check_integer("levels", self.levels, 2)
        ordered = 0 < self.sigma_end < self.sigma_begin < math.inf
        came = f"{self.sigma_begin:g} and {self.sigma_end:g}"
        require(ordered, "sigma_begin and sigma_end", "with 0 < sigma_end < sigma_begin", came)
        rule = f"one of the schedule's levels, 0 to {self.levels - 1}"
        require(0 <= self.level < self.levels, "level", rule, self.level)
        check_integer("steps_per_level", self.steps_per_level, 1)
        check_integer("calls", self.calls, 2, self.levels)
        whole = self.calls % self.steps_per_level == 0
        require(whole, "calls", f"a multiple of steps_per_level ({self.steps_per_level})", self.calls)
        require(0 < self.step < 1, "step", "in (0, 1)", self.step)
        check_integer("atoms", self.atoms, 3)
        check_integer("code_atoms", self.code_atoms, 3, self.atoms)
        rule = f"between 2 and the number of atoms ({self.code_atoms})"
        require(2 <= self.topk <= self.code_atoms, "topk", rule, self.topk)
        check_choice("sampling", self.sampling, ("auto", "float32", "bfloat16"))
        require(0 < self.threshold < math.pi, "threshold", "an angle in (0, π) radians", self.threshold)
        require(0 <= self.batch_threshold <= 1, "batch_threshold", "in [0, 1]", self.batch_threshold)
        check_integer("code_steps", self.code_steps, 1)
        require(0 < self.tol < math.inf, "tol", "a positive number", self.tol)
        require(0 < self.mixture < 0.5, "mixture", "in (0, 0.5)", self.mixture)
        check_integer("filter_draws", self.filter_draws, 300)
        own = {name: getattr(self, name) for name in OWN}
        given = [name for name, value in own.items() if value]
        require(len(given) in (0, len(OWN)), ", ".join(OWN), "all given, or none", given)
        for name in given:
            require(Path(own[name]).exists(), name, "a folder or file that is there", own[name])


STUDY = Study(
    title="DPM-OT: a new diffusion probabilistic model based on optimal transport (arXiv:2307.11308)",
    summary="Frozen latents through annealed Langevin dynamics, at the published noise level and larger ones, with "
    "and without the filter, as the paper describes it and as its code does it.",
    module=f"{__name__}.reports",
    settings=Settings,
    usual=Size(2000),
    fast=Size(60, {"atoms": 1000, "code_atoms": 200, "code_steps": 50, "tol": 0.2, "filter_draws": 5000}),
    minutes="About three quarters of an hour on two cores; a rehearsal takes about three minutes.",
)
