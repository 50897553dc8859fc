"""Pairs in the forms that training loops of flows expect: torchcfm's and diffusers'.

torchcfm runs from noise at t = 0 to data at t = 1, x_t = (1 − t) x_0 + t x_1 + σ ε, and learns u_t = x_1 − x_0. Its
`OTPlanSampler` couples the noise and the images of one batch. Here each noise of the batch gets the image of its cell,
among *all* images: so the plan does not depend on the batch size, and x_1 only says what an image looks like.

diffusers runs the other way, from data at σ = 0 to noise at σ = 1, x_σ = (1 − σ) x + σ z, and learns z − x.

References:
    Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport (2024),
    arXiv:2302.00482: the package torchcfm.
    Esser et al., Scaling rectified flow transformers for high-resolution image synthesis (2024), arXiv:2403.03206: the
    densities of timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Tensor

from otprior.priors.coupling.pairs import Pairs, SemiDiscreteCoupling
from otprior.utils.validation import (
    as_numbers,
    check_choice,
    check_generator,
    check_number,
    check_tensor,
    require,
)

Conditions = Tensor | Mapping[str, Tensor]
LABELS = "labels"


class CouplingFlowMatcher:
    """torchcfm's interface over a coupling: that of `OTPlanSampler` and of its matchers.

    Arguments:
        coupling: Where images come from.
        sigma: Standard deviation of the noise about the path.
        conditions: Further conditions of the images by name, (N, ...) each, such as embeddings of captions.
        generator: Draws times and noise about the path, and images where there is entropy; None stands for one of a
            fixed seed.

    Raises:
        ValueError: If sigma is no number from 0 on, or a condition does not have one row an image.

    Examples:
        >>> matcher = CouplingFlowMatcher(coupling)
        >>> t, x_t, u_t, _, y1 = matcher.guided_sample_location_and_conditional_flow(noise, images, y1=labels)
    """

    def __init__(
        self,
        coupling: SemiDiscreteCoupling,
        sigma: float = 0.0,
        conditions: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        right = isinstance(coupling, SemiDiscreteCoupling)
        require(right, "coupling", "a SemiDiscreteCoupling", type(coupling).__name__)
        self.coupling, self.sigma = coupling, check_number("sigma", sigma)
        require(0 <= self.sigma < math.inf, "sigma", "a finite number >= 0", sigma)
        given = {} if conditions is None else conditions
        require(isinstance(given, Mapping), "conditions", "a dict of tensors", type(given).__name__)
        self.conditions = {
            name: as_numbers(f"conditions[{name!r}]", values) for name, values in given.items()
        }
        for name, values in self.conditions.items():
            right = values.shape[:1] == (len(coupling.images),)
            rule = f"of {len(coupling.images)} rows, one an image"
            require(right, f"conditions[{name!r}]", rule, tuple(values.shape))
        self.generator = torch.Generator("cpu").manual_seed(0) if generator is None else generator
        check_generator(self.generator)

    def sample_plan(self, x0: Tensor, x1: Tensor, replace: bool = True) -> tuple[Tensor, Tensor]:
        """The noise x0 and the image of each; for a coupling of one map.

        Arguments:
            x0: Noise, shape (B, *shape).
            x1: A batch of images, of which only the type is used.
            replace: Of torchcfm's interface: without effect, as no image of the batch is drawn.
        """
        return self.sample_plan_with_labels(x0, x1, replace=replace)[:2]

    def sample_plan_with_labels(
        self,
        x0: Tensor,
        x1: Tensor,
        y0: Tensor | None = None,
        y1: Conditions | None = None,
        replace: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor | None, Conditions | None]:
        """The noise x0, the image of each, the noise's labels as they are, and the image's labels.

        By class, labels y1 say whose map finds the images: labels (B,), or a mapping with the entry "labels". Else they
        are replaced by those of the images that were found. A mapping comes back with every entry of `conditions`.

        Raises:
            ValueError: As `SemiDiscreteCoupling.pair`; and for a condition whose values for the images are not known.
        """
        check_tensor("x0", x0)
        check_tensor("x1", x1)
        require(x1.is_floating_point(), "x1", "floating-point", x1.dtype)
        require(x1.shape == x0.shape, "x1", f"shaped as x0, {tuple(x0.shape)}", tuple(x1.shape))
        require(x1.device == x0.device, "x1", f"on {x0.device}, as x0", x1.device)
        if isinstance(y1, Mapping):
            unknown = sorted(set(y1) - {LABELS, *self.conditions})
            known = ", ".join([LABELS, *self.conditions])
            require(not unknown, "y1", f"conditions that the matcher was given ({known})", unknown)
        labels = y1.get(LABELS) if isinstance(y1, Mapping) else y1
        by_class = self.coupling.maps.class_mass is not None
        pairs = self.coupling.pair(x0, labels if by_class else None, self.generator)
        found: Conditions | None = pairs.labels
        if isinstance(y1, Mapping):
            found = self._conditions(pairs)
        elif y1 is not None:
            require(found is not None, "y1", "None for images without labels", "labels")
        return x0, pairs.images.to(x1.dtype), y0, None if y1 is None else found

    def sample_location_and_conditional_flow(
        self, x0: Tensor, x1: Tensor, t: Tensor | None = None, return_noise: bool = False
    ) -> tuple[Tensor, ...]:
        """t (B,), x_t and u_t = x_1 − x_0 of noise x0 and its images; and ε if `return_noise`."""
        x0, x1 = self.sample_plan(x0, x1)
        return self._locate(x0, x1, t, return_noise)

    def guided_sample_location_and_conditional_flow(
        self,
        x0: Tensor,
        x1: Tensor,
        y0: Tensor | None = None,
        y1: Conditions | None = None,
        t: Tensor | None = None,
        return_noise: bool = False,
    ) -> tuple[Any, ...]:
        """t, (B,), x_t and u_t, (B, *shape), y0 and y1 of `sample_plan_with_labels`; and ε if `return_noise`."""
        x0, x1, y0, found = self.sample_plan_with_labels(x0, x1, y0, y1)
        t, location, flow, *rest = self._locate(x0, x1, t, return_noise)
        return t, location, flow, y0, found, *rest

    def _conditions(self, pairs: Pairs) -> dict[str, Tensor]:
        labels = {} if pairs.labels is None else {LABELS: pairs.labels}
        rows = {name: values[pairs.source.to(values.device)] for name, values in self.conditions.items()}
        return labels | rows

    def _locate(self, x0: Tensor, x1: Tensor, t: Tensor | None, return_noise: bool) -> tuple[Tensor, ...]:
        device = self.generator.device
        if t is None:
            t = torch.rand(len(x0), generator=self.generator, dtype=torch.float32, device=device).to(x0)
        check_tensor("t", t)
        require(t.shape == x0.shape[:1], "t", f"of shape ({len(x0)},)", tuple(t.shape))
        wide = t.to(x0).reshape(-1, *[1] * (x0.ndim - 1))
        location = (1 - wide) * x0 + wide * x1
        if not (self.sigma or return_noise):
            return t, location, x1 - x0
        noise = torch.randn(x0.shape, generator=self.generator, dtype=torch.float32, device=device).to(x0)
        found = (t, location + self.sigma * noise, x1 - x0)
        return (*found, noise) if return_noise else found


class FlowTargets(NamedTuple):
    """What a step of diffusers' flow-matching training takes.

    Attributes:
        noisy: x_σ = (1 − σ) x + σ z, shape (B, *shape): the network's input.
        timesteps: Its timesteps, (B,).
        target: z − x: what it should answer.
        sigmas: σ, (B,), for the loss's weights (`compute_loss_weighting_for_sd3`).
    """

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    sigmas: Tensor


def flow_targets(
    pairs: Pairs | tuple[Tensor, Tensor],
    scheduler: Any,
    generator: torch.Generator,
    weighting_scheme: str = "none",
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    mode_scale: float = 1.29,
) -> FlowTargets:
    """Draws timesteps for pairs, and makes input and target of each, as diffusers' training scripts do.

    Arguments:
        pairs: Noise and images, (B, ...) each, the first two of `Pairs`; any others may follow.
        scheduler: A `FlowMatchEulerDiscreteScheduler`, or one with its `timesteps` and `sigmas`, which have to be those
            of training: a copy from before `set_timesteps`.
        generator: Draws the timesteps.
        weighting_scheme: "none", "sigma_sqrt" and "cosmap" draw them uniformly, "logit_normal" and "mode" as in SD 3.
        logit_mean, logit_std, mode_scale: See diffusers' `compute_density_for_timestep_sampling`.

    Raises:
        ValueError: If the scheduler is none of flow matching or has other timesteps, or an option is none.

    Examples:
        >>> coupling = SemiDiscreteCoupling.fit(images, tol=0.3)
        >>> targets = flow_targets(coupling.sample(8, generator), FlowMatchEulerDiscreteScheduler(), generator)
        >>> targets.noisy.shape
        torch.Size([8, 1, 28, 28])
    """
    prediction = hasattr(scheduler, "sigmas") and hasattr(scheduler, "scale_noise")
    require(prediction, "scheduler", "one of flow matching", type(scheduler).__name__)
    count = scheduler.config.num_train_timesteps
    hint = "`set_timesteps` replaces them: keep a copy for training (copy.deepcopy), as diffusers' scripts do"
    own = len(scheduler.timesteps)
    require(
        own == count, "scheduler", f"one with its {count} timesteps of training", f"{own} timesteps", hint
    )
    check_generator(generator)
    schemes = ("none", "sigma_sqrt", "cosmap", "logit_normal", "mode")
    check_choice("weighting_scheme", weighting_scheme, schemes)
    _check_density(logit_mean, logit_std, mode_scale)
    noise, images = pairs[:2]
    require(
        noise.shape == images.shape, "pairs", "noise and images of one shape", (noise.shape, images.shape)
    )
    density = compute_density_for_timestep_sampling(
        weighting_scheme, len(noise), logit_mean, logit_std, mode_scale, generator.device, generator
    )
    place = (density.cpu() * count).long().clamp(max=count - 1)
    timesteps = scheduler.timesteps.cpu()[place].to(images.device)
    sigmas = scheduler.sigmas.cpu()[place].to(images)
    wide = sigmas.reshape(-1, *[1] * (images.ndim - 1))
    return FlowTargets((1 - wide) * images + wide * noise, timesteps, noise - images, sigmas)


def _check_density(logit_mean: float, logit_std: float, mode_scale: float) -> None:
    """Requires what makes a density: beyond these bounds times of "mode" run backwards, or out of [0, 1]."""
    mean, std = check_number("logit_mean", logit_mean), check_number("logit_std", logit_std)
    require(math.isfinite(mean), "logit_mean", "finite", mean)
    require(0 <= std < math.inf, "logit_std", "a finite number >= 0", std)
    steepest, scale = 2 / (math.pi - 2), check_number("mode_scale", mode_scale)
    require(-1 <= scale <= steepest, "mode_scale", f"in [-1, {steepest:.4g}], 2/(π − 2)", scale)
