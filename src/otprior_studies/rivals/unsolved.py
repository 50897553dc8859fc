"""A semi-discrete prior whose potential no solver touched: what is the solve worth?

For any potential the map is optimal onto the masses of its cells, so these starts are coupled as the solved one's
are; their masses are wrong. "zero" is the plain search for the image that correlates most with the seed; "independent"
is the solver's first guess, right if scores were independent.
"""

from __future__ import annotations

import torch

from otprior.priors.semidiscrete import SemiDiscretePrior
from otprior.transport.independent_scores import independent_score_start
from otprior.transport.measure import DiscreteMeasure
from otprior.utils.validation import check_choice

POTENTIALS = ("zero", "independent")


def unsolved(prior: SemiDiscretePrior, potential: str) -> SemiDiscretePrior:
    """The prior with another potential on the same atoms, of equal weights; facts of the solve are dropped.

    Arguments:
        prior: Fitted without labels.
        potential: "zero" or "independent".
    """
    check_choice("potential", potential, POTENTIALS)
    config = prior._own_config()
    config["facts"] = {name: prior.facts.get(name) for name in ("source", "license", "sha256")}
    other = SemiDiscretePrior(**config)
    kept = torch.isfinite(prior.potential)
    offsets = torch.zeros_like(prior.potential[kept])
    if potential == "independent":
        measure = DiscreteMeasure.build(prior.atoms[kept].cpu())
        offsets = independent_score_start(measure.atoms, measure.weights).to(offsets.device)
    values = torch.full_like(prior.potential, float("-inf"))
    values[kept] = offsets
    other.load_state_dict({**prior.state_dict(), "potential": values}, assign=True)
    other._anchor = prior._anchor
    return other.eval()
