"""Comparing starts: the same seeds through every row, quality and copying of each, as a report.

A study names its rows, how many seeds, and which real images they are measured against. It is done in a work folder,
piece by piece, so that an interrupted study goes on where it stopped: priors, blocks of images, figures of a set of
seeds. Two processes with the same study, seeds and work folder get the same figures.

`study` says what a study is, `material` finds its images, `fitting` its priors; `measuring` takes the figures,
`running` does it all, and `statements` puts what was to be shown beside its limit.
"""

from otprior.compare.fitting import fit_priors
from otprior.compare.running import claim_work, run_study
from otprior.compare.statements import (
    CopyLimit,
    copy_gate,
    difference_gate,
    gate,
    headline_gates,
    paired_fid_difference,
    ratio_gate,
)
from otprior.compare.study import AGREEMENT_SEEDS, Listener, Study, StudyProgress, StudyResult

__all__ = [
    "AGREEMENT_SEEDS",
    "CopyLimit",
    "Listener",
    "Study",
    "StudyProgress",
    "StudyResult",
    "claim_work",
    "copy_gate",
    "difference_gate",
    "fit_priors",
    "gate",
    "headline_gates",
    "paired_fid_difference",
    "ratio_gate",
    "run_study",
]
