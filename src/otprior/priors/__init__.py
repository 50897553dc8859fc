"""Priors: maps from seed noise z ~ N(0, I) to a start latent at an intermediate timestep t*.

Each is a file; `base` and `kind` say what they share, and CONTRIBUTING how to add one.
"""

from otprior.priors.base import Prior
from otprior.priors.data import as_schedule, read_data
from otprior.priors.gaussian import GaussianPrior
from otprior.priors.identity import IdentityPrior
from otprior.priors.mixture import MixturePrior
from otprior.priors.options import PriorOptions, option
from otprior.priors.random_atom import RandomAtomPrior
from otprior.priors.registry import find_prior, prior_kinds
from otprior.priors.semidiscrete import SemiDiscretePrior

__all__ = [
    "GaussianPrior",
    "IdentityPrior",
    "MixturePrior",
    "Prior",
    "PriorOptions",
    "RandomAtomPrior",
    "SemiDiscretePrior",
    "as_schedule",
    "find_prior",
    "option",
    "prior_kinds",
    "read_data",
]
