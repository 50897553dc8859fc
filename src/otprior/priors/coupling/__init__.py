"""Pairs of noise and image for training a flow: what a solved map gives before there is a network.

`SemiDiscreteCoupling` pairs noise with the images of a data set, `CouplingFlowMatcher` and `flow_targets` make of
pairs what torchcfm's and diffusers' training loops expect. `score` has what pairing changes about scores.
"""

from otprior.priors.coupling.flow import CouplingFlowMatcher, flow_targets
from otprior.priors.coupling.pairs import SemiDiscreteCoupling

__all__ = ["CouplingFlowMatcher", "SemiDiscreteCoupling", "flow_targets"]
