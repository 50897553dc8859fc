"""Codes decoded as other classes, or by another network: the pieces of work, and what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.experiments.processes import Piece
from otprior.report import ReportImages
from otprior_studies.codes.layout import Leg, layout_figures
from otprior_studies.codes.pieces import array_piece, join_arrays, swapped
from otprior_studies.codes.study import CodeStudy, CodeSubject

# Images side by side.
SHOWN = 10


def swap_pieces(study: CodeStudy, subject: CodeSubject, folder: Path) -> list[Piece]:
    """A piece a class of the network, or a block of images for a second network; none if there is nothing to swap."""
    network, other = subject.network, subject.other
    if not study.swaps:
        return []
    if other is not None:
        images = subject.images.images[: study.swaps]
        each = images.split(study.block)
        return [
            array_piece(
                folder / f"network-{i:03d}.npz",
                len(part) * 2 * study.evaluations,
                swapped,
                network,
                other,
                study.encoder,
                part,
                network.no_class(len(part)),
                (None,),
            )
            for i, part in enumerate(each)
        ]
    pieces = []
    for label in range(network.classes):
        images = _of_class(subject.images, label)[: study.swaps]
        cost = len(images) * (1 + network.classes) * study.evaluations
        labels = torch.full((len(images),), label)
        args = (network, network, study.encoder, images, labels, tuple(range(network.classes)))
        pieces.append(array_piece(folder / f"class-{label:03d}.npz", cost, swapped, *args))
    return pieces


class Swaps:
    """What the pieces show.

    Arguments:
        study, subject: As they were done.
        pieces: Those of `swap_pieces`, done.
    """

    def __init__(self, study: CodeStudy, subject: CodeSubject, pieces: list[Piece]) -> None:
        self._study, self._subject = study, subject
        found = [join_arrays([piece])["images"] for piece in pieces]
        self._between = "networks" if subject.other is not None else "classes"
        # Between classes: by source class, (m, K, C, H, W). Between networks: one, (m, 1, C, H, W).
        self._swapped = [torch.cat(found)] if subject.other is not None else found

    def figures(self) -> dict[str, Any]:
        """The part "swaps" of a report."""
        part = layout_figures(self._legs(), self._study.seed)
        return {"between": self._between} | part

    def pictures(self) -> list[ReportImages]:
        """Each class decoded as every class, the same images in every row; none between networks."""
        if self._between == "networks":
            return []
        subject = self._subject
        names = subject.images.class_names or tuple(f"class {k}" for k in range(subject.network.classes))
        count = min(self._study.swaps, max(1, SHOWN // len(self._swapped)))
        originals = [_of_class(subject.images, label)[:count] for label in range(len(self._swapped))]
        rows = [ReportImages("image", torch.cat(originals))]
        for target, name in enumerate(names):
            images = torch.cat([found[:count, target] for found in self._swapped])
            rows.append(ReportImages(f"its code as {name}", images.clamp(-1, 1)))
        return rows

    def beside(self) -> list[ReportImages]:
        """Images of the first kind decoded as the second: code swap, optimal partner, random pair under one another."""
        leg = self._legs()[0]
        names = self._subject.images.class_names
        as_what = "class 1" if names is None else names[1]
        title = "by the other network" if self._between == "networks" else f"as {as_what}"
        rows = {
            "image": leg.sources[leg.rows],
            f"its code decoded {title}": leg.swapped,
            "optimal partner": leg.partners(),
            "random pair": leg.strangers(torch.Generator().manual_seed(0)),
        }
        return [ReportImages(name, images[:SHOWN].float().clamp(-1, 1)) for name, images in rows.items()]

    def _legs(self) -> list[Leg]:
        subject = self._subject
        if subject.other is not None:
            assert subject.other_images is not None
            images = self._swapped[0][:, 0]
            rows = torch.arange(len(images))
            sources, targets = subject.images.images, subject.other_images.images
            return [Leg("network", rows, sources, targets, images, images.mean(dim=0))]
        legs = []
        by_class = [_of_class(subject.images, label) for label in range(len(self._swapped))]
        for target, targets in enumerate(by_class):
            others = [k for k in range(len(by_class)) if k != target]
            mean = torch.cat([self._swapped[k][:, target] for k in others]).mean(dim=0)
            for k in others:
                images = self._swapped[k][:, target]
                rows = torch.arange(len(images))
                legs.append(Leg(f"class {k}", rows, by_class[k], targets, images, mean))
        # (By source, so that the first leg leads from the first class to the second.)
        return sorted(legs, key=lambda leg: leg.kind)


def _of_class(images: ImageSet, label: int) -> Tensor:
    assert images.labels is not None
    return images.images[images.labels == label]
