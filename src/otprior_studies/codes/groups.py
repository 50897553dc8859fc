"""Maps of the same points beside one another: images with their codes, and seeds with what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from otprior.diffusion.flow import Scales
from otprior.experiments.comparison import Listener, StageProgress
from otprior.priors import GaussianPrior, SemiDiscretePrior
from otprior.priors.gaussian import gaussian_code, gaussian_map
from otprior.utils.files import read_json, write_json
from otprior_studies.claims.power import TurnedMap
from otprior_studies.codes.maps import map_figures, power_curve, shuffled
from otprior_studies.codes.study import CodeStudy


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
        stage, total, rows = f"exact transport, {name}", len(maps) + 1, []
        for done, each in enumerate(maps):
            self._listen(StageProgress(stage, done, total, each.name))
            path = folder / f"{each.name.replace(' ', '-')}.json"
            if not path.exists():
                write_json(path, map_figures(each.images, each.noise, study.subset, at_subset, study.seed))
            facts = {"name": each.name, "note": each.note, "optimal_by_construction": each.optimal}
            rows.append(facts | read_json(path))
        self._listen(StageProgress(stage, len(maps), total, "power"))
        path = folder / "power.json"
        if not path.exists():
            sizes = sorted({max(4, study.subset // 4), study.subset, study.images})
            write_json(path, power_curve(turned, sizes))
        return {"name": name, "maps": rows, "power": read_json(path)}
