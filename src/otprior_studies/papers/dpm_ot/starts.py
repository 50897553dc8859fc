"""The starts that are compared: with the same number of network evaluations, and three that show what more of them do.

A start of latents names in its options the map it draws by, the filter ("rule" and what that takes), and the chain:
levels from "begin" to "end", "count" of them, "steps" at each, of relative size "step". There are five chains:

- *as described*: the last levels from the latents' own on, n steps at each; this takes more evaluations;
- *short*: the same levels, one step at each;
- *as published*: latents of level 222, but the chain runs through the last calls/n levels, of which the first is
  quieter than the latents are;
- *coarse*: from a larger noise to the same end in as many levels as there are calls, with the step that is best for
  their ratio in the long run (`langevin.settled_step`);
- *all levels*: from a larger noise through every published level below it, one such step each; more evaluations, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from otprior.diffusion.schedule import NoiseSchedule
from otprior.sampling.start_spec import StartSpec
from otprior.utils.validation import invalid, require
from otprior_studies.papers.dpm_ot import LARGER_LEVELS, Settings
from otprior_studies.papers.dpm_ot.langevin import geometric_levels, settled_step
from otprior_studies.papers.dpm_ot.sampling import SAMPLER

DPM, DDIM = "DPMSolverMultistepScheduler", "DDIMScheduler"
# Of the larger levels, the one at which filters and rivals are shown, and those with a start of all levels.
MIDDLE = 0.5
ALL_LEVELS = (0.05, MIDDLE)
FROZEN = "frozen latents"


def level_of(settings: Settings) -> float:
    """The noise of the published latents, for pixels in [0, 1]."""
    return geometric_levels(settings.sigma_begin, settings.sigma_end, settings.levels)[settings.level]


@dataclass(frozen=True)
class MapSpec:
    """A map onto the latents of `atoms` images at noise `sigma`, by our solver or the published.

    Attributes:
        effort: χ² that our solver reaches, or steps of the published one.
    """

    sigma: float
    atoms: int
    effort: float
    published: bool = False

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{'published' if self.published else 'solved'}-{self.sigma:.6g}-{self.atoms}-{self.effort:g}"


class Starts:
    """Makes starts of one run.

    Arguments:
        settings: The settings of the run.
        schedule: The network's process, variance preserving.

    Attributes:
        maps: Those of the starts made so far, by name.

    Raises:
        ValueError: If the settings' levels reach beyond that process.
    """

    def __init__(self, settings: Settings, schedule: NoiseSchedule) -> None:
        self.settings, self.schedule = settings, schedule
        self.level = level_of(settings)
        self.larger = [sigma for sigma in LARGER_LEVELS if self.level < sigma < settings.sigma_begin]
        self.evaluations = settings.calls + 1
        self.maps: dict[str, MapSpec] = {}
        for name in ("sigma_begin", "sigma_end"):
            sigma = getattr(settings, name)
            try:
                self.timestep(sigma)
            except ValueError as error:
                rule = "a level that the network's process has"
                raise invalid(name, rule, sigma, str(error)) from error
        for sigma in self.larger:
            most = round(
                self.timestep(sigma)
            )  # a grid has one step more, and a run one evaluation more than calls
            rule = f"at most {most}: the network has no more timesteps from σ = {sigma:g} on"
            require(settings.calls <= most, "calls", rule, settings.calls)

    def main(self, thresholds: Sequence[float]) -> list[StartSpec]:
        """White noise, latents at every level, with the filter and without the map, and this library's own starts.

        Arguments:
            thresholds: In radians, one for each of `pools`.
        """
        starts: list[StartSpec] = [self._stock(DPM, "DPM++2M"), self._stock(DDIM, "DDIM"), self._white()]
        starts += [self.published(), self.short(), self.described()]
        starts += [self.coarse(sigma) for sigma in self.larger]
        starts += [self.fine(sigma) for sigma in self.larger if sigma in ALL_LEVELS]
        starts += [self.filtered(start, angle) for start, angle in zip(self.pools(), thresholds)]
        if MIDDLE in self.larger:
            middle = self.coarse(MIDDLE)
            label = f"{middle.label}, no map: any latent"
            starts.append(replace(middle.with_options(rule="random"), label=label))
        for sigma in self.larger:
            starts += self._library(sigma)
        return starts

    def code(self) -> list[StartSpec]:
        """The authors' code, without the filter (its default) and with it, and what is described on as few atoms."""
        chosen = self.settings
        few = MapSpec(self.level, chosen.code_atoms, chosen.tol)
        theirs = MapSpec(self.level, chosen.code_atoms, chosen.code_steps, published=True)
        described = replace(
            self._mapped(self.published(), few), label="N(0, I), solved map, the code's chain"
        )
        plain = replace(self._mapped(described, theirs), label="as the code: cube, Adam, topk = 1")
        kept = plain.with_options(rule="batch", topk=chosen.topk, threshold=chosen.batch_threshold)
        label = f"as the code: topk = {chosen.topk}, rescaled angle ≤ {chosen.batch_threshold:g}"
        return [described, plain, replace(kept, label=label)]

    def pools(self) -> list[StartSpec]:
        """The starts of `main` without a filter that have a twin with one: filters are judged on their samples."""
        return [self.published(), *([self.coarse(MIDDLE)] if MIDDLE in self.larger else [])]

    def published(self) -> StartSpec:
        """Latents of the published level, through the chain as published."""
        chosen, per_level = self.settings, self.settings.steps_per_level
        count = chosen.calls // per_level
        levels = geometric_levels(chosen.sigma_begin, chosen.sigma_end, chosen.levels)
        chain = {"begin": levels[-count], "count": count, "steps": per_level, "step": chosen.step}
        label = f"{FROZEN}, σ = {self.level:.3g}, as published: {count} levels of {per_level} steps"
        return self._latents(self.level, chain, label)

    def described(self) -> StartSpec:
        """The same latents, through all levels from their own on."""
        return self._from_own_level(self.settings.steps_per_level, "as described: ")

    def short(self) -> StartSpec:
        """The same with one step a level, in about as many evaluations as the others."""
        return self._from_own_level(1)

    def coarse(self, sigma: float) -> StartSpec:
        """Latents of a larger noise, through as few levels as there are calls."""
        return self._latents(sigma, self._coarse_chain(sigma), f"{FROZEN}, σ = {sigma:g}, coarse")

    def fine(self, sigma: float) -> StartSpec:
        """Latents of a larger noise, through every level that is not above it."""
        chosen = self.settings
        levels = geometric_levels(chosen.sigma_begin, chosen.sigma_end, chosen.levels)
        below = [level for level in levels if level <= sigma]
        step = settled_step(levels[0] / levels[1], 1)
        chain = {"begin": below[0], "count": len(below), "steps": 1, "step": step}
        return self._latents(sigma, chain, f"{FROZEN}, σ = {sigma:g}, all {len(below)} levels")

    def filtered(self, start: StartSpec, threshold: float) -> StartSpec:
        """A start whose draws pass the filter."""
        kept = start.with_options(rule="angle", topk=self.settings.topk, threshold=threshold)
        return replace(kept, label=f"{start.label}, angle ≤ {threshold:g}")

    def timestep(self, sigma: float) -> float:
        """Where the network's process has the signal-to-noise ratio of a level.

        Raises:
            ValueError: If it never has.
        """
        return self.schedule.timestep(_log_snr(sigma))

    def _from_own_level(self, steps: int, name: str = "") -> StartSpec:
        chosen = self.settings
        count = chosen.levels - chosen.level
        chain = {"begin": self.level, "count": count, "steps": steps, "step": chosen.step}
        levels = f"{name}{count} levels of {steps} step{'s' * (steps > 1)}"
        return self._latents(self.level, chain, f"{FROZEN}, σ = {self.level:.3g}, {levels}")

    def _coarse_chain(self, sigma: float) -> dict[str, Any]:
        count = self.settings.calls
        ratio = (sigma / self.settings.sigma_end) ** (1 / (count - 1))
        return {"begin": sigma, "count": count, "steps": 1, "step": settled_step(ratio, 1)}

    def _latents(self, sigma: float, chain: dict[str, Any], label: str) -> StartSpec:
        time, steps = round(self.timestep(sigma), 1), chain["count"] * chain["steps"] + 1
        start = StartSpec("latents", time, steps, SAMPLER, "", label=label)
        start = start.with_options(noise="frozen", rule="map", end=self.settings.sigma_end, **chain)
        return self._mapped(start, MapSpec(sigma, self.settings.atoms, self.settings.tol))

    def _mapped(self, start: StartSpec, spec: MapSpec) -> StartSpec:
        self.maps[spec.name] = spec
        return start.with_options(map=spec.name)

    def _white(self) -> StartSpec:
        begin = self.settings.sigma_begin
        options = self._coarse_chain(begin) | {"end": self.settings.sigma_end}
        label = f"N(0, I) at σ = {begin:g}, coarse Langevin"
        time = round(self.timestep(begin), 1)
        return StartSpec("none", time, self.evaluations, SAMPLER, "", label=label).with_options(**options)

    def _stock(self, scheduler: str, name: str) -> StartSpec:
        last = int(self.schedule.timestep_range[1])
        # (DDIM alone clips by default: the clean image that it foresees, at every step.)
        sampler = (("clip_sample", False),) if scheduler == DDIM else ()
        start = StartSpec("none", last, self.evaluations, scheduler, "trailing", sampler=sampler)
        return replace(start, label=f"N(0, I) at T, {name}")

    def _library(self, sigma: float) -> list[StartSpec]:
        """Starts of this library at the noise of a level, by a solver without noise of its own."""
        t = round(self.timestep(sigma))
        start = StartSpec("semidiscrete", t, self.evaluations, DPM)
        starts = [
            replace(start.with_options(noise="frozen"), label=f"frozen, t* = {t} (σ = {sigma:g}), DPM++2M")
        ]
        if sigma == MIDDLE:
            starts += [
                replace(start, label=f"coupled, t* = {t}"),
                replace(start, prior="random_atom", label=f"random image + fresh noise, t* = {t}"),
            ]
        return starts


def _log_snr(sigma: float) -> float:
    """log-SNR of a level for pixels in [0, 1]: −2 ln(2 σ) for pixels in [−1, 1]."""
    return -2 * math.log(2 * sigma)
