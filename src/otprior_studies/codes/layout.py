"""What of an image's layout survives when its code is decoded as something else.

Layout is what is left below a few cycles an image once the mean image of the class (or of the network's images) has
been taken away: where an image differs in the large from others of its kind. Survival is the correlation of two
layouts: 1 for equal ones, 0 for images that have nothing in common but their kinds. The same is measured for random
pairs of the two kinds, and for the partners in the best pairing of real images of both, as much as pixels can show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprior.error.spectrum import low_passed, radial_coherence
from otprior.metrics.intervals import bootstrap_mean
from otprior.transport.assignment import best_partners
from otprior.utils.random import stream_generator

# Cycles an image: of 28 pixels, shapes down to a sixth of the width.
CUTOFF = 3
# What an image is paired with.
KINDS = ("code swap", "optimal partner", "random pair")


@dataclass(frozen=True)
class Leg:
    """Images of one kind, each with what its code became as another kind.

    Attributes:
        kind: Name of the sources' kind; legs of one kind swap the same images.
        rows: Which of `sources` were swapped, (m,).
        sources: All images of the one kind at hand, (n, C, H, W).
        targets: Images of the other kind, (k, C, H, W).
        swapped: (m, C, H, W).
        mean: Mean image of what decodes as that other kind, (C, H, W).
    """

    kind: str
    rows: Tensor
    sources: Tensor
    targets: Tensor
    swapped: Tensor
    mean: Tensor

    def partners(self) -> Tensor:
        """The swapped images' partners in the best pairing of as many sources and targets as there are of both."""
        count = min(len(self.sources), len(self.targets))
        order = torch.cat([self.rows, _others(self.rows, len(self.sources))])[:count]
        return self.targets[best_partners(self.sources[order], self.targets[:count])][: len(self.rows)]

    def strangers(self, generator: torch.Generator) -> Tensor:
        """As many random targets."""
        return self.targets[torch.randint(len(self.targets), (len(self.rows),), generator=generator)]


def layout_figures(legs: Sequence[Leg], seed: int) -> dict[str, Any]:
    """How much layout survives over all legs.

    Returns:
        "cutoff", "frequency", and by kind of pair: "kept" (mean correlation of layouts), its 95 % "interval" (over
        images), "by_frequency" (coherence).
    """
    generator = stream_generator(seed, "random partners")
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in KINDS}
    for leg in legs:
        own = leg.sources[leg.rows] - leg.sources.mean(dim=0)
        centre = leg.targets.mean(dim=0)
        pairs["code swap"].append((own, leg.swapped - leg.mean))
        pairs["optimal partner"].append((own, leg.partners() - centre))
        pairs["random pair"].append((own, leg.strangers(generator) - centre))
    rows = {}
    for name, found in pairs.items():
        # An image's pairs, one a target, are no independent samples: their mean is one.
        by_kind: dict[str, list[Tensor]] = {}
        for leg, (first, second) in zip(legs, found):
            values = _cosines(low_passed(first, CUTOFF), low_passed(second, CUTOFF))
            by_kind.setdefault(leg.kind, []).append(values)
        means = torch.cat([torch.stack(values).mean(dim=0) for values in by_kind.values()])
        kept = bootstrap_mean(means, stream_generator(seed, "layout bootstrap"))
        coherence = radial_coherence(*(torch.cat(part).float() for part in zip(*found)))
        rows[name] = {"kept": kept.estimate, "interval": kept.limits(), "by_frequency": coherence.tolist()}
    return {"cutoff": CUTOFF, "images": len(means), "pairs": sum(len(leg.rows) for leg in legs), "rows": rows}


def _others(rows: Tensor, count: int) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    left[rows] = False
    return torch.nonzero(left).reshape(-1)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)
