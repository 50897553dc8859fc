"""A semi-discrete prior whose potential no solver touched: what is the solve worth?

For any potential the map is optimal onto the masses of its cells, so these starts are coupled as the solved one's
are; their masses are wrong. "zero" is the plain search for the image that correlates most with the seed; "independent"
is the solver's first guess, right if scores were independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import torch

from otprior.priors.base import Prior
from otprior.priors.options import option
from otprior.priors.semidiscrete import SemiDiscreteOptions, SemiDiscretePrior
from otprior.transport.independent_scores import independent_score_start
from otprior.transport.measure import DiscreteMeasure
from otprior.utils.validation import check_choice

POTENTIALS = ("zero", "independent")


@dataclass(frozen=True)
class UnsolvedOptions(SemiDiscreteOptions):
    """Those of a semi-discrete start, and the potential."""

    potential: str = option("independent", "What stands for the solution.", choices=POTENTIALS, of_start=True)


class UnsolvedPrior(SemiDiscretePrior):
    """A semi-discrete prior with another potential. Build it with `of`; it is not saved."""

    kind = "unsolved"
    Options = UnsolvedOptions
    made_from = "semidiscrete"
    loadable = False

    @classmethod
    def of(cls, prior: SemiDiscretePrior, potential: str) -> Self:
        """The prior with another potential on the same atoms, of equal weights; facts of the solve are dropped.

        Arguments:
            prior: Fitted without labels.
            potential: "zero" or "independent".
        """
        check_choice("potential", potential, POTENTIALS)
        config = prior._own_config()
        # (A whitening belongs to the cells that were solved for.)
        config |= {"whitening": None, "noise": "coupled" if prior.noise == "whitened" else prior.noise}
        config["facts"] = {name: prior.facts.get(name) for name in ("source", "license", "sha256")}
        other = cls(**config)
        kept = torch.isfinite(prior.potential)
        offsets = torch.zeros_like(prior.potential[kept])
        if potential == "independent":
            measure = DiscreteMeasure.build(prior.atoms[kept].cpu())
            offsets = independent_score_start(measure.atoms, measure.weights).to(offsets.device)
        values = torch.full_like(prior.potential, float("-inf"))
        values[kept] = offsets
        tensors = prior.state_dict() | {"potential": values}
        other.load_state_dict({name: tensors[name] for name in other.state_dict()}, assign=True)
        other._anchor = prior._anchor
        return other.eval()

    @classmethod
    def derive(cls, fitted: Prior, timestep: float, options: Mapping[str, Any]) -> Prior:
        """Made by `of` from a semidiscrete prior, with the options of its start."""
        assert isinstance(fitted, SemiDiscretePrior)
        chosen = {name: value for name, value in options.items() if name != "potential"}
        other = _known(fitted, UnsolvedOptions.make(options).potential)
        return SemiDiscretePrior.derive(other, timestep, chosen)

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> str:
        """What it is."""
        return "coupled, potential unsolved"


@lru_cache(maxsize=4)
def _known(prior: SemiDiscretePrior, potential: str) -> UnsolvedPrior:
    return UnsolvedPrior.of(prior, potential)
