"""Another scheduler for the same network: of another class, on the network's own process.

A network was trained on one process and to predict one quantity; its folder's scheduler says which. Another class may
sample it only if it says the same. diffusers' `from_config` sees to that where it can. But where a value was the old
class's default, or only the new class has it, it takes the new class's default: other betas, or samples that are cut to
[-1, 1], which latents are not.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.validation import require

# Values of a config that tell what the network was trained on, or what its samples are cut to.
_OF_THE_NETWORK = (
    *(
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
    ),
    *("prediction_type", "sigma_min", "sigma_max", "sigma_data", "snr_shift_scale"),
    *("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
)
# What a class does by default to samples or betas, turned off: the old scheduler did not.
_NOTHING = {"clip_sample": False, "thresholding": False, "snr_shift_scale": 1.0}
# Names of methods, which each family of classes has of its own.
_OF_A_CLASS = ("algorithm_type", "solver_type")


def switched(scheduler: Any, cls: Any, **changes: Any) -> Any:
    """A scheduler of another class for the network of `scheduler`.

    Arguments:
        scheduler: The network's.
        cls: A scheduler class of diffusers.
        **changes: Config values to set.

    Raises:
        ValueError: If such a scheduler is for other networks (`check_network`).
    """
    config, known = dict(scheduler.config), inspect.signature(cls.__init__).parameters
    defaults = set(config.pop("_use_default_values", ())) - set(_OF_THE_NETWORK)
    if not isinstance(scheduler, cls):
        defaults |= set(_OF_A_CLASS)
    kept = {name: value for name, value in config.items() if name not in defaults}
    nothing = {name: value for name, value in _NOTHING.items() if name in known}
    # (By the name of the class that a value comes from, diffusers knows what not to warn of.)
    given = nothing | {"_class_name": type(scheduler).__name__} | kept
    new = cls.from_config(given, **changes)
    check_network(new, scheduler)
    return new


def check_network(scheduler: Any, own: Any, name: str = "scheduler") -> None:
    """Requires a scheduler for the same networks as another: of the same process, and the same prediction.

    Arguments:
        scheduler: What shall sample.
        own: The network's own scheduler. If its process is not known, anything goes.
        name: What an error calls the first.

    Raises:
        ValueError: Naming both processes.
    """
    try:
        trained = NoiseSchedule.from_scheduler(own)
    except ValueError:
        return
    schedule, cls = NoiseSchedule.from_scheduler(scheduler), type(scheduler).__name__
    rule = f"one for the network's process, {_described(trained)} as {type(own).__name__} has it"
    require(_same_process(schedule, trained), name, rule, f"{cls}, which is for {_described(schedule)}")
    if schedule.kind != "flow":
        predicts, trained_to = _prediction(scheduler), _prediction(own)
        rule = f"one for a network that predicts {trained_to!r}, as {type(own).__name__} has it"
        require(predicts == trained_to, name, rule, f"{cls}, which is for {predicts!r}")


def _prediction(scheduler: Any) -> str:
    # (Cosmos 2 has a flow scheduler on an exploding process.)
    flow = type(scheduler).__name__.startswith("Flow")
    return "velocity" if flow else str(scheduler.config.get("prediction_type", "epsilon"))


def _same_process(a: NoiseSchedule, b: NoiseSchedule) -> bool:
    if (a.kind, a.discrete, a.num_train_timesteps) != (b.kind, b.discrete, b.num_train_timesteps):
        return False
    # (Of a continuous process, a config names the ends of grids alone.)
    return not a.discrete or torch.allclose(a.log_snrs, b.log_snrs, rtol=0.0, atol=1e-3)


def _described(schedule: NoiseSchedule) -> str:
    if schedule.kind == "flow":
        return f"flow matching with {schedule.num_train_timesteps} timesteps"
    kind = {"vp": "variance preserving", "ve": "variance exploding"}.get(schedule.kind, "Würstchen's process")
    if not schedule.discrete:
        return f"{kind} in continuous time"
    first, last = float(schedule.log_snrs[0]), float(schedule.log_snrs[-1])
    return f"{kind} with {len(schedule.times)} timesteps from log-SNR {first:.3g} to {last:.3g}"
