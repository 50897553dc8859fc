"""The prior errors of a schedule's starts, by the audit's own bounds: for the data, for the population, by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from otprior.data.images import load_images
from otprior.error.audit.errors import audited_priors, data_groups, error_rows
from otprior.error.audit.request import AuditRequest
from otprior.priors import Prior, SemiDiscretePrior
from otprior.report.audit.record import ErrorRow
from otprior.utils.files import write_json
from otprior_studies.papers.prior_mismatch.rows import scheduler_of


def write_errors(
    name: str,
    images: dict[str, Path],
    priors: Path,
    timesteps: Sequence[int],
    draws: int,
    out: Path,
) -> None:
    """Writes the rows of an audit to `out`, as JSON.

    Arguments:
        name: Of the schedule.
        images: Files of "atoms" and "held_out".
        priors: Folder of the fitted "semidiscrete" and "semidiscrete-by-class".
        timesteps: Where errors are computed; there is signal at all of them.
        draws: Of p_t, for the coupling by the data's flow.
        out: The file.
    """
    given: dict[str, Prior] = {}
    for kind in ("semidiscrete", "semidiscrete-by-class"):
        fitted = SemiDiscretePrior.from_pretrained(priors / kind)
        for noise in ("fresh", "coupled"):
            given[f"{kind}, {noise}"] = fitted.with_options(noise=noise)
    data, held_out = (load_images(images[part]) for part in ("atoms", "held_out"))
    request = AuditRequest(
        scheduler_of(name),
        name,
        data=data,
        held_out=held_out,
        priors=given,
        timesteps=tuple(float(t) for t in timesteps),
        draws=draws,
        conditional=True,
    )
    rows: list[ErrorRow] = []
    for by_class in (False, True):
        generator = torch.Generator().manual_seed(request.seed)
        parts = data_groups(request, data, held_out, by_class, generator)
        for audited in audited_priors(request, data, parts, by_class, generator):
            for found in error_rows(request, audited, parts, generator):
                # (Single classes are in the sum over them.)
                rows += [row for row in found if row.label == ("all classes" if by_class else None)]
    write_json(out, [row.to_json() for row in rows])
