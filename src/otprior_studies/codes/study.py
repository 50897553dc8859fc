"""What a study of codes is: a network, images, how they are encoded, and how much is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.data.images import ImageSet, check_labels
from otprior.diffusion.codes import Encoder
from otprior.utils.validation import check_integer, require

# Of the methods that take as many in every step.
EVALUATIONS_A_STEP = {"euler": 1, "heun": 2, "rk4": 4}


@dataclass(frozen=True)
class Network:
    """A saved network and its class-label conventions.

    Attributes:
        folder: In diffusers layout, with `unet` and `scheduler`.
        null_label: Its label for no class; None for a network that takes no labels.
        classes: How many other labels it takes; 0 for none.
        device: Where it runs.
        variant: Which of several files of its weights.
    """

    folder: Path
    null_label: int | None = None
    classes: int = 0
    device: str = "cpu"
    variant: str | None = None

    def no_class(self, count: int) -> Tensor | None:
        """Labels for so many images of no class; None if the network takes no labels."""
        return None if self.null_label is None else torch.full((count,), self.null_label)


@dataclass(frozen=True)
class CodeSubject:
    """A network, and images to encode.

    Attributes:
        name: A label for reports.
        network: The network whose codes are studied.
        images: Images to encode, in the order in which they are taken.
        atoms: Images that the fast priors, and the moments of the gaussian map, are fitted to.
        other: A second network, to decode the first one's codes; None without.
        other_images: Images like those that one was trained on.
    """

    name: str
    network: Network
    images: ImageSet
    atoms: ImageSet
    other: Network | None = None
    other_images: ImageSet | None = None


@dataclass(frozen=True)
class CodeStudy:
    """How much is measured.

    Attributes:
        images: n, encoded; the same number of seeds is decoded.
        subset: Points of the disjoint sets that intervals are over; at least two fit into n.
        encoder: The method. (Runge-Kutta in 13 steps, 52 evaluations, was five times nearer to the flow than Heun in
            50 evaluations and than DDIM's solved inversion in 166.)
        conditional: Whether the network is given each image's own class, instead of none.
        refined: Images encoded again in half as long steps, which says what the steps cost; and decoded again.
        probed: Images at whose codes the decoder's Jacobian is probed; 0 leaves it out.
        probes: Probes of each image.
        swaps: Images of each class that are decoded as every class; of all with a second network. 0 leaves it out.
        timestep: t* of the fast priors.
        fast_steps: Network evaluations from there on.
        tol: χ² of the semi-discrete solve.
        seed: Of every draw.
        block: Images in one piece of work.
    """

    images: int = 2000
    subset: int = 500
    encoder: Encoder = field(default_factory=lambda: Encoder("rk4", steps=12))
    conditional: bool = False
    refined: int = 250
    probed: int = 96
    probes: int = 2
    swaps: int = 20
    timestep: float = 500
    fast_steps: int = 5
    tol: float = 0.05
    seed: int = 0
    block: int = 50

    def __post_init__(self) -> None:
        check_integer("subset", self.subset, 4)
        hint = "Take more images, or smaller subsets"
        enough = self.images >= 2 * self.subset
        require(enough, "images", f"at least two subsets of {self.subset}", self.images, hint)
        for name, least in (
            ("refined", 2),
            ("probed", 0),
            ("probes", 1),
            ("swaps", 0),
            ("fast_steps", 1),
            ("block", 1),
        ):
            check_integer(name, getattr(self, name), least)
        require(self.probed != 1, "probed", "0, or at least 2 for an interval", self.probed)

    @property
    def evaluations(self) -> int:
        """Network evaluations to encode an image, as far as they are known beforehand."""
        return self.encoder.steps * EVALUATIONS_A_STEP.get(self.encoder.method, 3)

    @property
    def effort(self) -> str:
        """The same in words, which do not say more than is known."""
        known = self.encoder.method in EVALUATIONS_A_STEP
        return (
            f"{self.evaluations} evaluations"
            if known
            else f"{self.encoder.steps} steps of {self.encoder.method}"
        )

    def settings(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def check_subject(study: CodeStudy, subject: CodeSubject) -> None:
    """Refuses a study that its subject is not enough for, before anything is computed.

    Raises:
        ValueError: If there are too few images, of some class, or no classes where some are needed.
    """
    images, network = subject.images, subject.network
    have = len(images)
    require(have >= study.images, "images", f"at least {study.images:,}", f"{have:,}", "Ask for fewer")
    if study.conditional:
        known = images.labels is not None and network.classes > 0
        require(
            known, "conditional", "left out: it needs labelled images and a network with classes", "given"
        )
        check_labels(images.labels, have, network.classes, f"labels of {images.name}")
    if not study.swaps:
        return
    if subject.other is not None:
        assert subject.other_images is not None
        fewest = min(study.images, len(subject.other_images))
        require(
            study.swaps <= fewest, "swaps", f"at most {fewest}, the images of either network", study.swaps
        )
        return
    labelled = images.labels is not None and network.classes > 1
    hint = "Leave swaps out, or give a second network"
    require(labelled, "swaps", "0 without labelled images and a network with classes", study.swaps, hint)
    assert images.labels is not None
    counts = torch.bincount(images.labels[: study.images], minlength=network.classes)[: network.classes]
    fewest = int(counts.min())
    rule = f"at most {fewest}, the images of class {int(counts.argmin())}"
    require(study.swaps <= fewest, "swaps", rule, study.swaps, "Take more images, or fewer swaps")
