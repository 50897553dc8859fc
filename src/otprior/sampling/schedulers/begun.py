"""What a scheduler of `start_at` knows of its run: where it starts, what steps, and which latents it made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprior.sampling.schedulers.start import Origin, Start
from otprior.sampling.schedulers.support import find_support
from otprior.utils.validation import invalid, require


@dataclass
class Begun:
    """What a scheduler of `start_at` holds beside its stock attributes.

    Attributes:
        base: The stock scheduler.
        prior: Where it starts.
        origin: t* and the prior's scales.
        check: Whether foreign latents are refused.
        grid: Timesteps of every run, or None.
        run: What steps, once timesteps are set.
        told: The timestep of each network evaluation.
        begin: Place of the first step, if a pipeline has set one.
        place: Place of the next step; None before the first.
        scaled: Place for which a pipeline last asked `scale_model_input`.
        made: Latents that the first step may be given, as `_fingerprint` sees them: what `start` last returned.
        source: The atoms behind them, (B,), or None.
        swap: Makes starts of a pipeline's white noise at the first contact; or None.
    """

    base: Any
    prior: Any
    origin: Origin
    check: bool
    grid: list[float] | None = None
    run: Start | None = None
    told: Sequence[float] = ()
    begin: int | None = None
    place: int | None = None
    scaled: int | None = None
    made: tuple[list[Tensor], torch.dtype] | None = None
    source: Tensor | None = None
    swap: Callable[[Tensor], Tensor] | None = None

    def scale(self) -> float:
        """The factor from the prior's scale to the sampler's; it depends on t* alone, not on a grid."""
        alpha, sigma, on_ratio = self.origin.alpha, self.origin.sigma, find_support(self.base).ve_scale
        if alpha > 0:
            return (1.0 if on_ratio else self.origin.schedule.alpha(self.origin.timestep)) / alpha
        if on_ratio:
            return self.origin.start(self.base, num_inference_steps=1).sigma / sigma
        return self.origin.schedule.sigma(self.origin.timestep) / sigma

    def find(self, timestep: Any) -> int:
        """The place of a step that a pipeline names by its timestep."""
        expected = self.begin if self.place is None else self.place
        if expected is not None and expected < len(self.told) and self._is(expected, timestep):
            return expected
        found = next((i for i in range(len(self.told)) if self._is(i, timestep)), expected)
        if found is None or found >= len(self.told):
            raise invalid("timestep", f"one of the grid {list(self.told)}", float(timestep))
        return found

    def expect(self, *latents: Tensor) -> None:
        """Says what latents the first step will be given."""
        self.made = [_fingerprint(x) for x in latents], latents[0].dtype

    def is_start(self, sample: Tensor) -> bool:
        """Whether latents are those that the first step will be given."""
        return self.made is not None and _same(self.made, sample)

    def check_start(self, sample: Tensor, place: int) -> None:
        """Refuses latents of a first step that `start` did not make."""
        if not self.check:
            return
        rule = "those of this scheduler's prior at t*"
        hint = "attach(pipe, prior) sees to that, or latents=pipe.scheduler.start(z)."
        require(place == 0, "latents", rule, f"some for step {place + 1}, as of image-to-image", hint)
        require(self.is_start(sample), "latents", rule, "others, such as white noise", hint)

    def _is(self, place: int, timestep: Any) -> bool:
        t = float(timestep.reshape(-1)[0] if isinstance(timestep, Tensor) else timestep)
        # (Some pipelines round it to the precision of their network.)
        half = isinstance(timestep, Tensor) and timestep.dtype in (torch.float16, torch.bfloat16)
        return abs(self.told[place] - t) <= (1e-2 if half else 1e-4) * max(1.0, abs(t))


def _fingerprint(x: Tensor) -> Tensor:
    """The first three moments of all entries: the same however a pipeline packs or repeats them."""
    flat = x.detach().float().flatten().cpu().double()
    return torch.stack([flat.mean(), flat.square().mean(), flat.pow(3).mean()])


def _same(made: tuple[list[Tensor], torch.dtype], sample: Tensor) -> bool:
    """Whether latents are those of one of the fingerprints, up to the rounding of a change of type."""
    moments, dtype = torch.stack(made[0]), made[1]
    size = moments[:, 1:2].clamp_min(1e-12).sqrt()
    slack = 1e-6 if sample.dtype == dtype else 1e-3
    near = (_fingerprint(sample) - moments).abs() <= slack * torch.cat([size, size**2, size**3], dim=1)
    return bool(near.all(dim=1).any())
