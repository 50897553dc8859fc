r"""For images: is the bundled network's encoder the optimal map from the images to their codes?

Two tests of the same codes, of held-out images without a class label.

- *Cost*, as the paper does it: |x − E(x)|² against the best pairing of the same images and codes. In 784 dimensions
  it cannot fail for a map that is roughly right: an image's own code has by far the largest product with it, and a
  rotation has to be large before another code's is larger. The power says how large.
- *Jacobian*: of the decoder, at the codes, by random probes (`claims.skew`). It does not depend on how many images
  there are, and sees what the other cannot.

What is tested is the network's flow in finitely many steps, with the network's own error; a network's Jacobian need not
be symmetric even at one moment, as that of an exact denoiser is. `otprior codes` is the same study at size, with swaps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from otprior.data import bundled
from otprior.diffusion.codes import Encoder, ImageCoder
from otprior.diffusion.denoisers import Denoiser
from otprior.diffusion.flow import flow_grid
from otprior.metrics.intervals import bootstrap_mean, seed_set_interval
from otprior.transport.assignment import pairing
from otprior.transport.gaussian import gaussian_code
from otprior.transport.moments import Spectrum, streaming_spectrum
from otprior_studies.claims.claim import CODES, Effort, Finding, claim
from otprior_studies.claims.power import COST_ROUNDING, TurnedMap
from otprior_studies.claims.skew import SKEW_MOMENTS, light, own_skew, probed_skew

# |J − Jᵀ|/|J + Jᵀ| that differences in float32 can make; half a degree.
SKEW_ROUNDING = 0.01
BATCH = 25


@dataclass(frozen=True)
class _Images:
    """Images (n, 1, 28, 28), their codes, and the network."""

    images: Tensor
    codes: Tensor
    coder: ImageCoder
    effort: Effort

    def decode(self, codes: Tensor) -> Tensor:
        """Decodes differentiably."""
        coder = self.coder
        denoiser = light(_denoiser(coder, len(codes), self.effort))
        return coder.encoder.decode(denoiser, codes, coder.clean, coder.noisy).x


def _denoiser(coder: ImageCoder, count: int, effort: Effort) -> Denoiser:
    """The network without a class, which computes on its device what is asked for on the CPU."""
    there = coder.denoiser(torch.full((count,), bundled.null_class_label()))
    return lambda x, alpha, sigma: there(x.to(effort.device), alpha, sigma).to(x.device)


@cache
def _encoded(effort: Effort) -> _Images:
    pipe: Any = bundled.load_pipeline()
    encoder = effort.choose(Encoder("rk4", steps=12), Encoder("heun", steps=10))
    coder = ImageCoder(pipe.unet.to(effort.device).eval().requires_grad_(False), pipe.scheduler, encoder)
    held_out = bundled.split("held_out").images
    chosen = torch.randperm(len(held_out), generator=effort.generator("codes images"))
    images = held_out[chosen[: effort.choose(500, 36)]]
    with torch.no_grad():
        codes = [
            encoder.encode(_denoiser(coder, len(part), effort), part, coder.clean, coder.noisy).x
            for part in images.split(BATCH)
        ]
    return _Images(images, torch.cat(codes), coder, effort)


@cache
def _moments() -> Spectrum:
    rows = bundled.atoms().images.flatten(1)
    return streaming_spectrum(rows, rows.shape[1])


@claim(
    "codes-images-cost",
    CODES,
    "For images the network's encoder is the optimal map to the codes (cost, as the paper tests it).",
)
def codes_images_cost(effort: Effort) -> Finding:
    found, sets = _encoded(effort), effort.choose(4, 3)
    size = len(found.images) // sets
    parts = list(zip(found.images.split(size), found.codes.split(size)))[:sets]
    pairs = [pairing(x, c) for x, c in parts]
    whole = pairing(found.images, found.codes)
    excess = seed_set_interval([pair.excess for pair in pairs])

    coder = found.coder
    rows = found.images.flatten(1).double()
    optimal = gaussian_code(coder.clean.alpha * rows, _moments(), *coder.clean)
    turned = TurnedMap(rows, optimal, effort.seed)
    unseen = {
        str(n): turned.restricted(n).smallest("excess") for n in sorted({size // 4, size, len(rows)}) if n > 1
    }
    return Finding(
        statistic=excess.estimate,
        interval=(max(excess.lo, 0.0), excess.hi),
        threshold=COST_ROUNDING,
        unseen_rotation=unseen[str(size)],
        why=f"Relative excess of Σ|x − E(x)|² over the best pairing of the same {size} images and codes, over "
        f"{sets} disjoint sets. {1 - whole.moved:.1%} of {len(rows)} images keep their own code. Read it with its "
        "power: in 784 dimensions the best pairing changes only for a map that is far from optimal.",
        details={
            "images in a set": size,
            "all images at once": vars(whole),
            "smallest rotation caught, degrees, by number of images": unseen,
            "mean square of an entry of a code": float((found.codes.double() ** 2).mean()),
        },
    )


@claim(
    "codes-images-jacobian",
    CODES,
    "For images the network's encoder is the optimal map to the codes (Jacobian).",
)
def codes_images_jacobian(effort: Effort) -> Finding:
    found = _encoded(effort)
    codes = found.codes[: effort.choose(64, 6)]
    probes = effort.choose(2, 1)

    def measured(part: Tensor, step: float) -> Tensor:
        return probed_skew(found.decode, part, effort.generator("codes images probes"), probes, step)

    values = torch.cat([measured(part, 0.02) for part in codes.split(8)])
    # The same probes, twice as far: of second order, the difference is three times the error.
    error = float((measured(codes[:2], 0.04) - measured(codes[:2], 0.02)).abs().max()) / 3
    coder = found.coder
    moments = flow_grid(coder.clean, coder.noisy, SKEW_MOMENTS + 1, "log_snr")[1:-1]
    denoiser = _denoiser(coder, 4, effort)
    skews = own_skew(denoiser, found.images[:4], moments, effort.generator("codes images own"))
    own = skews.mean(dim=0).tolist()
    mean = bootstrap_mean(values, effort.generator("codes images bootstrap"))
    return Finding(
        statistic=mean.estimate,
        interval=(max(mean.lo - error, 0.0), mean.hi + error),
        threshold=SKEW_ROUNDING,
        unseen_rotation=math.degrees(math.atan(SKEW_ROUNDING)),
        why=f"Mean of |J − Jᵀ|/|J + Jᵀ| of the decoder at the codes of {len(codes)} images, by random probes: the "
        f"tangent of a rotation of {math.degrees(math.atan(mean.estimate)):.2g}°. Optimal transport gives 0. The "
        f"network's own Jacobian, 0 for an exact denoiser, has {min(own):.2g} to {max(own):.2g}.",
        details={
            "images": len(codes),
            "probes for each": probes,
            "error of the differences": error,
            "largest, degrees": math.degrees(math.atan(float(values.max()))),
            "of the network by itself, at some log-SNR": {
                f"{2 * math.log(moment.alpha / moment.sigma):.1f}": value
                for moment, value in zip(moments, own)
            },
        },
    )
