"""Priors: maps from seed noise z ~ N(0, I) to a start latent at an intermediate timestep t*.

Each is a file; `base` says what they share, and CONTRIBUTING how to add one.
"""

from otprior.priors.base import Prior
from otprior.priors.gaussian import GaussianPrior
from otprior.priors.identity import IdentityPrior
from otprior.priors.mixture import MixturePrior
from otprior.priors.random_atom import RandomAtomPrior
from otprior.priors.semidiscrete import SemiDiscretePrior

__all__ = [
    "GaussianPrior",
    "IdentityPrior",
    "MixturePrior",
    "Prior",
    "RandomAtomPrior",
    "SemiDiscretePrior",
]
