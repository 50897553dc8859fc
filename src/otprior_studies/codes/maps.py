"""Maps between images and noise on one scale: figures of their pairs, intervals over disjoint sets, degrees.

A group is maps of the same points: images with their codes, and seeds with what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otprior.diffusion.flow import Scales
from otprior.experiments.processes import Piece, run_pieces
from otprior.experiments.study import Listener
from otprior.metrics.intervals import disjoint_blocks, seed_set_interval
from otprior.priors import GaussianPrior, SemiDiscretePrior
from otprior.transport.assignment import pairing
from otprior.transport.gaussian import gaussian_code, gaussian_map
from otprior.utils.files import read_json, write_json
from otprior.utils.random import stream_generator
from otprior_studies.claims.power import STATISTICS, TurnedMap
from otprior_studies.codes.study import CodeStudy

_SHARES = ("moved", "crossed", "crossed_near")


def map_figures(images: Tensor, noise: Tensor, subset: int, turned: TurnedMap, seed: int) -> dict[str, Any]:
    """Figures of one map.

    Arguments:
        images, noise: Its pairs, (n, ...) each.
        subset: Points of the disjoint sets.
        turned: A map that is known to be optimal, at points of the same law, for the scale in degrees.
        seed: Shuffles points into sets; equal for all maps of the same points.

    Returns:
        "points", "subset", "sets", "cost", "best", "longest_cycle", and by statistic: "whole" (of all points),
        "mean" and its 95 % "interval" (of a set), "alike" (degrees: the turn that makes the known map look like
        this in a set; None where it looks optimal, and no turn up to 90° gives more than 90).
    """
    whole = pairing(images, noise)
    generator = stream_generator(seed, "disjoint sets")
    blocks = disjoint_blocks(len(images), len(images) // subset, generator)
    # (Sets of exactly `subset` points, since the statistics depend on their number.)
    sets = [pairing(images[rows[:subset]], noise[rows[:subset]]) for rows in blocks]
    statistics = {}
    for name in STATISTICS:
        found = seed_set_interval([getattr(each, name) for each in sets])
        statistics[name] = {
            "whole": getattr(whole, name),
            "mean": found.estimate,
            # (None is negative, and shares are at most 1, which Student's interval does not know.)
            "interval": [max(found.lo, 0.0), min(found.hi, 1.0) if name in _SHARES else found.hi],
            "alike": turned.smallest(name, found.estimate) if found.estimate > 0 else None,
        }
    return {
        "points": whole.points,
        "subset": subset,
        "sets": len(sets),
        "cost": whole.cost,
        "best": whole.best,
        "longest_cycle": whole.longest_cycle,
        "statistics": statistics,
    }


def power_curve(turned: TurnedMap, sizes: list[int]) -> list[dict[str, Any]]:
    """The smallest turn that each statistic would have caught, by number of points."""
    rows = []
    for size in sizes:
        part = turned.restricted(size)
        # A better pairing is one event, of which three statistics are measures.
        better = part.smallest("excess")
        rows.append(
            {
                "points": size,
                "excess": better,
                "lost": better,
                "moved": better,
                "crossed": part.smallest("crossed"),
                "crossed_near": part.smallest("crossed_near"),
            }
        )
    return rows


def shuffled(count: int, seed: int) -> Tensor:
    """A random order, for the pairing of no map at all."""
    return torch.randperm(count, generator=stream_generator(seed, "random pairs"))


class _Map(NamedTuple):
    """Pairs of a map, (n, ...) each, and what it is called."""

    name: str
    note: str
    optimal: bool
    images: Tensor
    noise: Tensor


class Groups:
    """Figures of groups of maps, each map's kept in a file.

    Arguments:
        study: How much.
        gaussian: The map that is known to be optimal, between noise and a Gaussian like the images.
        clean: The moment at which codes begin.
        folder: For the files.
        listen: Called as work proceeds.
    """

    def __init__(
        self, study: CodeStudy, gaussian: GaussianPrior, clean: Scales, folder: Path, listen: Listener
    ) -> None:
        self._study, self._folder, self._listen = study, folder, listen
        self._spectrum, self._clean = gaussian.spectrum(), clean

    def images_to_codes(self, images: Tensor, codes: Tensor) -> dict[str, Any]:
        """The network's encoder, the gaussian one, and no map at all, on the same images (n, C, H, W)."""
        x = images.flatten(1).double()
        white = gaussian_code(self._clean.alpha * x, self._spectrum, *self._clean)
        order = shuffled(len(x), self._study.seed)
        maps = [
            _Map("network", f"the network's encoder, {self._study.effort}", False, x, codes),
            _Map("gaussian map", "whitening, optimal by construction", True, x, white),
            _Map("random pairs", "the network's codes, shuffled", False, x, codes[order]),
        ]
        return self._group("images to codes", maps, TurnedMap(x, white, self._study.seed))

    def seeds_to_images(
        self, seeds: Tensor, made: dict[str, Tensor], semidiscrete: SemiDiscretePrior
    ) -> dict[str, Any]:
        """What is made of the same seeds (n, C, H, W).

        Arguments:
            seeds: z.
            made: Images by "network", "gaussian" and "semidiscrete": its flow, and the starts with what follows.
            semidiscrete: The prior, for its map alone.
        """
        study, z = self._study, seeds.flatten(1)
        exact = gaussian_map(z.double(), self._spectrum, *self._clean)
        source = semidiscrete.source(seeds)
        assert source is not None
        fast = f"t* = {study.timestep:g}, then the network, {study.fast_steps} evaluations"
        flow = f"its flow from N(0, I), {study.effort}"
        maps = [
            _Map("network", flow, False, made["network"], z),
            _Map("gaussian start", fast, False, made["gaussian"], z),
            _Map("semidiscrete start", fast, False, made["semidiscrete"], z),
            _Map("gaussian map", "alone, optimal by construction", True, exact, z),
            _Map("semidiscrete map", "alone, optimal by construction", True, semidiscrete.atoms[source], z),
        ]
        return self._group("seeds to images", maps, TurnedMap(exact, z, study.seed))

    def _group(self, name: str, maps: list[_Map], turned: TurnedMap) -> dict[str, Any]:
        study, folder = self._study, self._folder / name.replace(" ", "-")
        at_subset = turned.restricted(study.subset)
        pieces = []
        for each in maps:
            path = folder / f"{each.name.replace(' ', '-')}.json"
            given = (path, map_figures, each.images, each.noise, study.subset, at_subset, study.seed)
            pieces.append(Piece(path, _write_figures, given, note=each.name))
        sizes = sorted({max(4, study.subset // 4), study.subset, study.images})
        power = folder / "power.json"
        every = [*pieces, Piece(power, _write_figures, (power, power_curve, turned, sizes), note="power")]
        run_pieces(every, f"exact transport, {name}", self._listen)
        rows = []
        for each, piece in zip(maps, pieces):
            facts = {"name": each.name, "note": each.note, "optimal_by_construction": each.optimal}
            rows.append(facts | read_json(piece.path))
        return {"name": name, "maps": rows, "power": read_json(power)}


def _write_figures(path: Path, work: Callable[..., Any], *args: Any) -> None:
    write_json(path, work(*args))
