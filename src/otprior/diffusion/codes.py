"""Images to latent codes and back, along a network's probability flow; swapping codes; codes in files.

The *code* of an image is where the flow takes it at the noisiest moment of the network's schedule: seed noise from
which a deterministic sampler would make that image again. Encoding starts at the cleanest moment, at α times the image
and without adding noise, and decoding ends there.

Codes are not quite normal draws, for two reasons that have nothing to do with the solver: a real image lacks the noise
of the cleanest moment (a black background has none at all), so that codes are somewhat shorter than √d; and the network
is not exact.

Codes leave a network at the scale √(α² + σ²) of its noisiest moment, and enter another at that of its own. In between
they are *seed noise*: about N(0, I), whatever the schedule. So swapping codes, encoding as one class and decoding as
another, or with a network that was trained on other images, is

    image → code of the source → seed noise → code of the target → image.

References:
    Su, Song, Meng & Ermon, Dual diffusion implicit bridges for image-to-image translation (2023),
    https://arxiv.org/abs/2203.08382
    Khrulkov et al., Understanding DDPM latent codes through optimal transport (2023), https://arxiv.org/abs/2202.07477
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
from torch import Tensor, nn

from otprior.diffusion.ddim import ddim_decode, ddim_encode
from otprior.diffusion.denoisers import Denoiser
from otprior.diffusion.flow import FIXED_STEP_METHODS, METHODS, Scales, flow_grid, probability_flow
from otprior.diffusion.grids import MOST_STEPS
from otprior.diffusion.network import NetworkDenoiser
from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.arrays import read_tensors, write_tensors
from otprior.utils.validation import check_choice, check_finite, check_integer, invalid, plain_number, require

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
ENCODERS = ("ddim", *METHODS)
LEAST_TOLERANCE, MOST_TOLERANCE = 1e-13, 1.0
# The ends of a flow-matching schedule have no noise and no signal; codes begin and end at these noise scales.
_FLOW_ENDS = (1e-3, 1 - 1e-3)


def settings_of(method: str, decoding: bool = False) -> tuple[str, ...]:
    """The settings of an `Encoder` that a method uses, to encode or to decode."""
    if method == "ddim":
        return ("steps",) if decoding else ("steps", "iterations", "tol")
    return ("steps",) if method in FIXED_STEP_METHODS else ("tol",)


def code_moments(schedule: NoiseSchedule) -> tuple[Scales, Scales]:
    """The cleanest and the noisiest moment of a schedule that have both noise and signal.

    Examples:
        >>> cleanest, noisiest = code_moments(schedule)
        >>> round(cleanest.alpha, 4), round(noisiest.alpha, 4)
        (0.9999, 0.0064)
    """
    if schedule.kind == "flow":
        low, high = (Scales(1 - sigma, sigma) for sigma in _FLOW_ENDS)
        return low, high
    finite = schedule.times[torch.isfinite(schedule.log_snrs)]
    return Scales.at(schedule, float(finite[0])), Scales.at(schedule, float(finite[-1]))


@dataclass(frozen=True)
class Encoder:
    """The method by which images become codes and codes images.

    Attributes:
        method: "ddim", whose inversion returns to the image; or one of `otprior.diffusion.flow.METHODS`.
        steps: Number of steps of fixed-step methods, equal in log-SNR.
        iterations: Most evaluations for a step of DDIM's inversion; with 1, the usual inversion, decoding does not
            return to the image.
        tol: Largest change of an entry at which the inversion's iteration stops; rtol and atol of adaptive methods.

    Source: DDIM and its inversion: Song et al., 2020, https://arxiv.org/abs/2010.02502, section 4.3

    Raises:
        ValueError: If the method is unknown, or a number is out of range.

    Examples:
        >>> Encoder("heun", steps=10)
        Encoder(method='heun', steps=10, iterations=20, tol=1e-05)
    """

    method: str = "ddim"
    steps: int = 50
    iterations: int = 20
    tol: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("steps", "iterations", "tol"):
            object.__setattr__(self, name, plain_number(getattr(self, name)))
        check_choice("method", self.method, ENCODERS)
        check_integer("steps", self.steps, 1, MOST_STEPS)
        check_integer("iterations", self.iterations, 1, MOST_STEPS)
        rule = f"in [{LEAST_TOLERANCE:g}, {MOST_TOLERANCE:g}]: from what double precision reaches to the size of a code"
        require(LEAST_TOLERANCE <= self.tol <= MOST_TOLERANCE, "tol", rule, self.tol)

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
        evaluations: Network evaluations per image.
        residual: Largest change in the last iteration of any step of an inversion; None for explicit methods.

    Examples:
        >>> coder = ImageCoder(pipe.unet, scheduler, Encoder("heun", steps=2))
        >>> encoding = coder.encode(images.images[:1], torch.tensor([10]))
        >>> encoding.x.shape, encoding.evaluations
        (torch.Size([1, 1, 28, 28]), 4)
    """

    x: Tensor
    evaluations: int
    residual: float | None


@dataclass(frozen=True)
class Codes:
    """Codes of images, with what made them.

    Attributes:
        codes: Shape (N, C, H, W), float32, at the scale of the noisy moment.
        labels: Class labels given to the network, (N,), int64, or None.
        encoder: The method.
        provenance: Model, data, schedule and so on, JSON values.

    Examples:
        >>> Codes(z, encoder=Encoder("heun", steps=5)).save("codes.safetensors")
        >>> torch.equal(Codes.load("codes.safetensors").codes, z)
        True
    """

    codes: Tensor
    labels: Tensor | None = None
    encoder: Encoder = field(default_factory=Encoder)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_no_class(self) -> bool:
        """Whether the labels stand for "no class" in this network; another network may use another number."""
        facts = {name: self.provenance.get(name, True) for name in ("conditional", "class label")}
        return self.labels is not None and facts == {"conditional": False, "class label": None}

    def seed_noise(self) -> Tensor:
        """The codes at unit scale, about N(0, I): what a pipeline takes as `latents`."""
        moments = self.provenance.get("moments") or {}
        return self.codes / math.hypot(*moments["noisy"]) if "noisy" in moments else self.codes

    def save(self, path: str | Path) -> None:
        """Writes a .safetensors file: tensors `codes` and perhaps `labels`, all else as JSON in its header."""
        tensors = {"codes": self.codes.float()}
        if self.labels is not None:
            tensors["labels"] = self.labels
        facts = {"encoder": asdict(self.encoder), "provenance": dict(self.provenance)}
        header = {
            "format": "otprior codes",
            "format_version": str(FORMAT_VERSION),
            "facts": json.dumps(facts),
        }
        write_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> Codes:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"codes {path}: there is no such file; `otprior encode` makes one")
        tensors, header = read_tensors(path, "codes", own=True)
        try:
            facts = json.loads(header.get("facts", "null"))
            encoder, provenance = Encoder(**facts["encoder"]), dict(facts["provenance"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise invalid(f"codes {path}", "a file that `otprior encode` wrote", error) from error
        fits = header.get("format") == "otprior codes" and "codes" in tensors
        require(fits, f"codes {path}", "a file that `otprior encode` wrote", header.get("format"))
        version = header.get("format_version")
        require(version == str(FORMAT_VERSION), f"format_version of {path}", f"{FORMAT_VERSION}", version)
        codes, labels = tensors["codes"], tensors.get("labels")
        fits = codes.ndim == 4 and codes.dtype == torch.float32
        require(fits, f"codes of {path}", "float32, (N, C, H, W)", f"{codes.dtype}, {tuple(codes.shape)}")
        check_finite(f"codes of {path}", codes)
        if labels is not None:
            fits = labels.dtype == torch.int64 and labels.shape == (len(codes),)
            require(fits, f"labels of {path}", "int64, one a code", f"{labels.dtype}, {tuple(labels.shape)}")
        return cls(codes, labels, encoder, provenance)


class ImageCoder:
    """A network with a method of encoding.

    Gradients are recorded: wrap calls in `torch.no_grad()` unless you want them.

    Arguments:
        unet: The network, in evaluation mode, on the device that it runs on.
        scheduler: Its diffusers scheduler, which says what it was trained on.
        encoder: The method; 50 steps of DDIM, inverted, by default.

    Attributes:
        schedule: The forward process.
        clean, noisy: The scales of images and of codes.

    Examples:
        >>> coder = ImageCoder(pipe.unet, scheduler, Encoder("heun", steps=2))
        >>> coder.decode(z, torch.tensor([10, 10])).x.shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, unet: nn.Module, scheduler: Any, encoder: Encoder | None = None) -> None:
        self._unet, self._scheduler = unet, scheduler
        self.encoder = encoder or Encoder()
        self.schedule = self.denoiser(None).schedule
        self.clean, self.noisy = code_moments(self.schedule)

    def denoiser(self, labels: Tensor | None) -> NetworkDenoiser:
        """The network, given these labels (B,) in every call; None for a network without labels."""
        where = next((tensor.device for tensor in self._unet.parameters()), None)
        moved = labels if labels is None or where is None else labels.to(where)
        return NetworkDenoiser(self._unet, self._scheduler, moved)

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Encoding:
        """Codes of images (B, C, H, W) in [−1, 1], at the scale of `noisy`."""
        return self.encoder.encode(self.denoiser(labels), images, self.clean, self.noisy)

    def decode(self, codes: Tensor, labels: Tensor | None = None) -> Encoding:
        """Images of codes (B, C, H, W), neither rounded nor clipped."""
        return self.encoder.decode(self.denoiser(labels), codes, self.clean, self.noisy)

    def to_seed(self, codes: Tensor) -> Tensor:
        """Codes (B, C, H, W) at unit scale: seed noise."""
        return codes / self.noisy.size

    def from_seed(self, z: Tensor) -> Tensor:
        """Seed noise (B, C, H, W) at the scale of `noisy`: codes."""
        return z * self.noisy.size


def swap(
    source: ImageCoder,
    target: ImageCoder,
    images: Tensor,
    source_labels: Tensor | None = None,
    target_labels: Tensor | None = None,
) -> Tensor:
    """Encodes images with one network and decodes the codes with another.

    Arguments:
        source, target: The same network, with other labels, or two networks whose images are of one size.
        images: Shape (B, C, H, W), in [−1, 1].
        source_labels, target_labels: Class labels given to each network, (B,), or None.

    Returns:
        Shape (B, C, H, W).

    Examples:
        >>> coder = ImageCoder(pipe.unet, scheduler, Encoder("heun", steps=2))
        >>> as_bags = swap(coder, coder, images.images[:2], torch.tensor([10, 10]), torch.tensor([8, 8]))
        >>> as_bags.shape
        torch.Size([2, 1, 28, 28])
    """
    z = source.to_seed(source.encode(images, source_labels).x)
    return target.decode(target.from_seed(z), target_labels).x
