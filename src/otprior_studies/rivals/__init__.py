"""Starts that a study compares with a prior."""

from otprior_studies.rivals.boosted_atom import BoostedAtomPrior
from otprior_studies.rivals.mini_batch import MiniBatchPrior
from otprior_studies.rivals.unsolved import UnsolvedPrior

__all__ = ["BoostedAtomPrior", "MiniBatchPrior", "UnsolvedPrior"]
