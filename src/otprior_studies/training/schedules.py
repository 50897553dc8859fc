r"""Forward processes to train on, by name, as schedulers of diffusers.

All are variance preserving, x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, at T = 1000 timesteps. They differ at the end by the leak
√ᾱ_T, the signal that p_T has and the N(0, I) of sampling has not:

| name | process | leak √ᾱ_T |
|---|---|---|
| linear | betas linear from 1e-4 to 2e-2 (Ho et al., 2020) | 0.0064 |
| scaled-linear | √β linear from √8.5e-4 to √1.2e-2 (Rombach et al., 2022) | 0.068 |
| shifted:W | scaled-linear, log_snr raised by 2 ln(64/W), see below | 0.26 (W = 16) |
| ve:S | variance exploding, σ geometric from 0.02 to S, as x/√(1 + σ²) | 1/√(1 + S²) |
| cosine | ᾱ = cos², betas at most 0.999 (Nichol & Dhariwal, 2021) | 4.9e-5 |
| zero-snr | scaled-linear, √ᾱ moved and stretched so that ᾱ_T = 0; v-prediction (Lin et al., 2023) | 0 |

The shift (Hoogeboom et al., 2023) gives images of width W, seen at low resolution, the noise that 64 pixels have.
A variance-exploding x = x_0 + σ ε and x/√(1 + σ²) are the same process: ᾱ = 1/(1 + σ²). Its usual start, of variance
1 + σ_T², is N(0, I) there.

References:
    Hoogeboom, Heek & Salimans, simple diffusion (2023), https://arxiv.org/abs/2301.11093
    Lin, Liu, Li & Yang, Common diffusion noise schedules and sample steps are flawed (2023),
    https://arxiv.org/abs/2305.08891
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.diffusion.known_schedules import read_scheduler
from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.validation import check_choice, invalid, require

SCHEDULES = ("linear", "scaled-linear", "shifted:W", "ve:S", "cosine", "zero-snr")
STEPS = 1000
SCALED_LINEAR: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NAMED: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 2e-2},
    "scaled-linear": SCALED_LINEAR,
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero-snr": {**SCALED_LINEAR, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
# The width whose noise a shifted schedule is compared to, and the least σ of a variance-exploding one.
REFERENCE_WIDTH = 64
SIGMA_MIN = 0.02


def training_scheduler(
    name: str, prediction: str | None = None, zero_terminal_snr: bool | None = None
) -> Any:
    """The `DDPMScheduler` of a named process.

    Arguments:
        name: One of `SCHEDULES`, with a number in the place of W or S, such as "shifted:16" or "ve:5"; or the path of a
            `scheduler_config.json`, of a VP process.
        prediction: "epsilon", "v_prediction" or "sample"; by default that of the name or the file, else epsilon.
        zero_terminal_snr: Whether betas are rescaled to ᾱ_T = 0; by default as the name or the file has it.

    Raises:
        FileNotFoundError: If the name is a path and there is no such file.
        ValueError: If the name is unknown, the process is not VP, or the prediction is epsilon with ᾱ_T = 0, where the
            noise has no information on the image.
    """
    from diffusers import DDPMScheduler

    config: dict[str, Any]
    kind, _, number = name.partition(":")
    if name in NAMED:
        config = dict(NAMED[name])
    elif kind in ("shifted", "ve"):
        value = _number(name, number)
        table = _shifted(value) if kind == "shifted" else _exploding(value)
        before = torch.cat([table.new_ones(1), table[:-1]])
        config = {"trained_betas": (1 - table / before).tolist()}
    else:
        known = Path(name).suffix == ".json" or Path(name).exists()
        rule = f"one of {', '.join(SCHEDULES)}, or the path of a scheduler_config.json"
        require(known, "schedule", rule, repr(name))
        scheduler = read_scheduler(Path(name))
        require(NoiseSchedule.from_scheduler(scheduler).kind == "vp", f"schedule {name}", "VP", "another")
        config = dict(DDPMScheduler.from_config(scheduler.config).config)
    if prediction is not None:
        check_choice("prediction", prediction, PREDICTIONS)
        config["prediction_type"] = prediction
    if zero_terminal_snr is not None:
        config["rescale_betas_zero_snr"] = zero_terminal_snr
    predicted = config.get("prediction_type", "epsilon")
    rule = "v_prediction or sample where no signal is left at T"
    require(predicted != "epsilon" or not config.get("rescale_betas_zero_snr"), "prediction", rule, predicted)
    # Clipping belongs to sampling, and would be wrong on latents; "leading" never begins at T.
    given = {"num_train_timesteps": STEPS, **config, "clip_sample": False, "timestep_spacing": "trailing"}
    return DDPMScheduler.from_config(given)


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise invalid("schedule", "written as shifted:16 or ve:5", repr(name)) from None
    require(value > 0 and math.isfinite(value), f"the number of schedule {name}", "positive", value)
    return value


def _shifted(width: float) -> Tensor:
    """ᾱ of the scaled-linear betas with their log_snr raised by 2 ln(64/W), (T,), float64."""
    low, high = SCALED_LINEAR["beta_start"], SCALED_LINEAR["beta_end"]
    betas = torch.linspace(math.sqrt(low), math.sqrt(high), STEPS, dtype=torch.float64) ** 2
    table = (1 - betas).cumprod(0)
    levels = table.log() - torch.log1p(-table)
    return torch.sigmoid(levels + 2 * math.log(REFERENCE_WIDTH / width))


def _exploding(largest: float) -> Tensor:
    """ᾱ = 1/(1 + σ²) for σ geometric up to `largest`, (T,), float64."""
    require(largest > SIGMA_MIN, "the S of schedule ve:S", f"above {SIGMA_MIN}", largest)
    low, high = math.log(SIGMA_MIN), math.log(largest)
    sigmas = torch.linspace(low, high, STEPS, dtype=torch.float64).exp()
    return 1 / (1 + sigmas**2)
