"""Images to latent codes and back, along a network's probability flow, and codes in files.

The *code* of an image is where the flow takes it at the noisiest moment of the network's schedule: seed noise from
which a deterministic sampler would make that image again. Encoding starts at the cleanest moment, at α times the image
and without adding noise, and decoding ends there.

Codes are not quite normal draws, for two reasons that have nothing to do with the solver: a real image lacks the noise
of the cleanest moment (a black background has none at all), so that codes are somewhat shorter than √d; and the network
is not exact.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from otprior.diffusion.ddim import ddim_decode, ddim_encode
from otprior.diffusion.denoisers import Denoiser
from otprior.diffusion.flow import (
    FIXED_STEP_METHODS,
    METHODS,
    Scales,
    flow_grid,
    probability_flow,
)
from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.files import output_file
from otprior.utils.validation import (
    check_choice,
    check_finite,
    check_integer,
    require,
)

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
ENCODERS = ("ddim", *METHODS)
# Of a flow-matching schedule, whose ends have no noise and no signal: noise scales at which to begin and to end.
_FLOW_ENDS = (1e-3, 1 - 1e-3)


def settings_of(method: str, decoding: bool = False) -> tuple[str, ...]:
    """The settings of an `Encoder` that a method heeds, one way or back."""
    if method == "ddim":
        return ("steps",) if decoding else ("steps", "iterations", "tol")
    return ("steps",) if method in FIXED_STEP_METHODS else ("tol",)


def code_moments(schedule: NoiseSchedule) -> tuple[Scales, Scales]:
    """The cleanest and the noisiest moment of a schedule that have both noise and signal."""
    if schedule.kind == "flow":
        low, high = (Scales(1 - sigma, sigma) for sigma in _FLOW_ENDS)
        return low, high
    finite = schedule.times[torch.isfinite(schedule.log_snrs)]
    return Scales.at(schedule, float(finite[0])), Scales.at(schedule, float(finite[-1]))


@dataclass(frozen=True)
class Encoder:
    """How images become codes and codes images: the method, the same both ways.

    Attributes:
        method: "ddim", whose inversion closes the round trip; or one of `otprior.diffusion.flow.METHODS`.
        steps: Of fixed-step methods, equal in log-SNR.
        iterations: Most evaluations for a step of DDIM's inversion; 1 is the usual inversion, which does not close.
        tol: Where its fixed point stops, by the largest change of an entry; and rtol and atol of adaptive methods.
    """

    method: str = "ddim"
    steps: int = 50
    iterations: int = 20
    tol: float = 1e-5

    def __post_init__(self) -> None:
        check_choice("method", self.method, ENCODERS)
        check_integer("steps", self.steps, 1)
        check_integer("iterations", self.iterations, 1)
        require(0 < self.tol < math.inf, "tol", "positive", self.tol)

    def refined(self) -> Encoder:
        """The same with twice the steps; of an adaptive method, with a tenth of the tolerance."""
        if "steps" in settings_of(self.method):
            return replace(self, steps=2 * self.steps)
        return replace(self, tol=self.tol / 10)

    def encode(self, denoiser: Denoiser, images: Tensor, clean: Scales, noisy: Scales) -> Encoding:
        """Codes of images (B, C, H, W) in [−1, 1].

        Raises:
            ValueError: If they come out infinite.
        """
        x = clean.alpha * images
        if self.method == "ddim":
            grid = flow_grid(clean, noisy, self.steps, "log_snr")
            inverted = ddim_encode(denoiser, x, grid, iterations=self.iterations, tol=self.tol)
            found = Encoding(inverted.x, inverted.evaluations, inverted.residual)
            if self.iterations > 1 and inverted.residual > self.tol:
                advice = "raise iterations or steps"
                logger.warning("a fixed point stopped at a change of %.2g: %s", inverted.residual, advice)
        else:
            solved = self._solve(denoiser, x, clean, noisy)
            found = Encoding(solved.x, solved.evaluations, None)
        finite = bool(torch.isfinite(found.x).all())
        hint = "Steps too long for this network do not converge: raise steps, or use an adaptive method"
        require(finite, "codes", "finite", "NaN or infinity", hint)
        return found

    def decode(self, denoiser: Denoiser, codes: Tensor, clean: Scales, noisy: Scales) -> Encoding:
        """Images of codes (B, C, H, W), neither rounded nor clipped."""
        if self.method == "ddim":
            solved = ddim_decode(denoiser, codes, flow_grid(noisy, clean, self.steps, "log_snr"))
        else:
            solved = self._solve(denoiser, codes, noisy, clean)
        return Encoding(solved.x / clean.alpha, solved.evaluations, None)

    def _solve(self, denoiser: Denoiser, x: Tensor, start: Scales, end: Scales) -> Any:
        return probability_flow(
            denoiser,
            x,
            start,
            end,
            method=self.method,
            steps=self.steps,
            spacing="log_snr",
            rtol=self.tol,
            atol=self.tol,
        )


@dataclass(frozen=True)
class Encoding:
    """Codes or images, and what they took.

    Attributes:
        x: Shape (B, C, H, W).
        evaluations: Of the network, an image.
        residual: Largest change in the last iteration of any step of an inversion; None for explicit methods.
    """

    x: Tensor
    evaluations: int
    residual: float | None


@dataclass(frozen=True)
class Codes:
    """Codes of images, with what made them.

    Attributes:
        codes: Shape (N, C, H, W), float32, at the scale of the noisy moment.
        labels: Class labels that the network was told, (N,), int64, or None.
        encoder: The method.
        provenance: Model, data, schedule and so on, JSON values.
    """

    codes: Tensor
    labels: Tensor | None = None
    encoder: Encoder = field(default_factory=Encoder)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_no_class(self) -> bool:
        """Whether the labels are the network's for "no class", as far as is known: another's may be another number."""
        told = {name: self.provenance.get(name, True) for name in ("conditional", "class label")}
        return self.labels is not None and told == {"conditional": False, "class label": None}

    def seed_noise(self) -> Tensor:
        """The codes at unit scale, about N(0, I): what a pipeline takes as `latents`."""
        moments = self.provenance.get("moments") or {}
        return self.codes / math.hypot(*moments["noisy"]) if "noisy" in moments else self.codes

    def save(self, path: str | Path) -> None:
        """Writes a .safetensors file: tensors `codes` and perhaps `labels`, all else as JSON in its header."""
        tensors = {"codes": self.codes.float().contiguous().cpu()}
        if self.labels is not None:
            tensors["labels"] = self.labels.cpu()
        facts = {"encoder": asdict(self.encoder), "provenance": dict(self.provenance)}
        header = {
            "format": "otprior codes",
            "format_version": str(FORMAT_VERSION),
            "facts": json.dumps(facts),
        }
        with output_file(path) as temporary:
            save_file(tensors, temporary, metadata=header)

    @classmethod
    def load(cls, path: str | Path) -> Codes:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"codes {path}: there is no such file; `otprior encode` makes one")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            facts = json.loads(header.get("facts", "null"))
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"codes {path} are damaged or no .safetensors file: {error}") from error
        fits = header.get("format") == "otprior codes" and "codes" in tensors and isinstance(facts, dict)
        require(fits, f"codes {path}", "a file that `otprior encode` wrote", header.get("format"))
        version = header.get("format_version")
        require(version == str(FORMAT_VERSION), f"format_version of {path}", f"{FORMAT_VERSION}", version)
        check_finite(f"codes of {path}", tensors["codes"])
        return cls(tensors["codes"], tensors.get("labels"), Encoder(**facts["encoder"]), facts["provenance"])
