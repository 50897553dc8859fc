"""What commands write into report.json: versions and the command itself."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
