"""What commands write into report.json: the solve, the start, versions, the command itself."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otprior.priors import Prior
    from otprior.report import SamplingReport


def provenance(settings: dict[str, Any]) -> dict[str, Any]:
    """The fields of a report that say how it was made: settings, versions, and the command."""
    import diffusers
    import torch

    from otprior import __version__

    return {
        "settings": settings,
        "environment": {
            "otprior": __version__,
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "threads": torch.get_num_threads(),
        },
        "command": shlex.join(["otprior", *sys.argv[1:]]),
    }


def empty_report(settings: dict[str, Any]) -> SamplingReport:
    """A report in which nothing was measured yet."""
    from otprior.report import SamplingReport

    nothing: dict[str, Any] = {
        "features": {"name": None, "dim": None},
        "ot": None,
        "reference": {"n": None, "fid_floor": None, "copy_rate": None},
        "rows": [],
    }
    return SamplingReport.from_json(nothing | provenance(settings))


def ot_part(prior: Prior | None) -> dict[str, Any] | None:
    """How well the transport behind a prior was solved; None if none was."""
    from otprior.priors import MixturePrior, SemiDiscretePrior

    if not isinstance(prior, MixturePrior | SemiDiscretePrior):
        return None
    keys = ("chi2", "chi2_upper", "seconds", "draws", "outcome", "variance_kept", "cost_excess_share")
    known = {key: prior.facts.get(key) for key in keys}
    return {"atoms": len(prior.potential), "dim": prior.dim, **known}


def start_part(prior: Prior | None, timestep: float) -> dict[str, Any]:
    """A report row's account of where sampling starts.

    Arguments:
        prior: None for white noise at T.
        timestep: Where the sampler starts, in its own units.
    """
    if prior is None:
        return {"prior": "none", "start_timestep": timestep}
    part: dict[str, Any] = {"prior": prior.kind, "start_timestep": prior.timestep}
    if prior.kind == "semidiscrete":
        part |= {"noise": prior.noise, "smoothing": prior.smoothing, "correlation": prior.correlation}
    if prior.kind == "mixture":
        part["noise"] = prior.config["noise"]
    return part
