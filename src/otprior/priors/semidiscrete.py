"""The semi-discrete prior: the seed is sent to the clean image whose Laguerre cell it lies in, and keeps its own noise.

With i(z) the cell of z in the optimal transport from N(0, I) to the atoms y_i, the start is

- coupled (default): α y_{i(z)} + σ z. McCann's interpolation between z and its transport image, times α + σ: the
  optimal map onto its own law. That law is not p_t*: E|x|² is larger by 2 α σ E⟨z, y_i⟩, and W2(coupled, fresh) ≤
  σ √(2 ln N) whatever the dimension (Talagrand's inequality on each cell).
- coupled with correlation ρ < 1: α y_{i(z)} + σ (ρ z + √(1 − ρ²) ε), between coupled and fresh. The part of the
  noise that is drawn anew carries none of the atom, so less of the atom survives (it copies less at the same t*).
- fresh: α y_{i(z)} + σ ε with ε drawn anew. Its law is the empirical p_t*, up to the cell masses.
- frozen: α y_{i(z)} + σ ε_{i(z)} with one ε an atom, drawn once: DPM-OT as published. At most N distinct starts.

`smoothing` replaces the atom by the softmax-weighted mean of all (a barycentric projection). With `rank` the cell is
found from the seed's coordinates along the atoms' leading principal axes only (see `projection`). The map does not
depend on t*: `prior.at(t)` solves nothing.

References:
    Li et al., DPM-OT: a new diffusion probabilistic model based on optimal transport (2023), arXiv:2307.11308.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.priors.base import (
    Prior,
    as_schedule,
    read_data,
    rows_by_class,
)
from otprior.priors.cells import CellMaps
from otprior.transport.distributed import Processes
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.potential import BrenierPotential, natural_scale
from otprior.transport.projection import Projection, excess_share, project
from otprior.transport.solution import Progress, Solution
from otprior.transport.solve import solve_semidiscrete
from otprior.utils.random import normal_block, seed_from
from otprior.utils.validation import check_choice, require

NOISES = ("coupled", "fresh", "frozen")
FROZEN_BLOCK = 1024


class SemiDiscretePrior(Prior):
    """T(z) = α y_{i(z)} + σ (z, or other noise); with labels, one map for each class.

    Build it with `fit`.

    Arguments:
        shape: (C, H, W) of a latent.
        schedule: `NoiseSchedule.to_dict()`.
        timestep: t*.
        num_atoms: N.
        noise: "coupled", "fresh" or "frozen".
        correlation: ρ in (0, 1], of the start's noise with the seed's; below 1 only with "coupled".
        smoothing: Temperature of the softmax over atoms in units of τ (see `semidual.natural_scale`); 0 takes
            the best atom alone.
        num_classes: Number of class labels, or None.
        rank: Number of principal axes along which cells are found, or None for all directions.
        frozen_seed: Seeds the noise of "frozen".
        facts: What is known of data and solve: source, license, sha256; chi2, draws, seconds.
    """

    kind = "semidiscrete"
    atoms: Tensor  # (N, d)
    potential: (
        Tensor  # (N,) float64; −∞ for atoms that no seed is sent to: weightless ones and later duplicates
    )
    classes: Tensor  # (N,) int64; all 0 when unconditional
    scales: Tensor  # (K,) median τ of each class, the unit of `smoothing`
    axes: Tensor  # (d, rank) float64, orthonormal columns; (d, 0) without `rank`

    @register_to_config
    def __init__(
        self,
        shape: list[int],
        schedule: dict[str, Any],
        timestep: float,
        num_atoms: int,
        noise: str = "coupled",
        smoothing: float = 0.0,
        correlation: float = 1.0,
        num_classes: int | None = None,
        rank: int | None = None,
        frozen_seed: int = 0,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._init_common(shape, schedule, timestep, num_classes)
        _check_options(noise, smoothing, correlation)
        self.noise = noise
        self.correlation = float(correlation)
        self.smoothing = float(smoothing)
        self.needs_fresh = noise == "fresh" or correlation < 1
        self.facts = dict(facts or {})
        self.register_buffer("atoms", torch.zeros(num_atoms, self.dim))
        self.register_buffer("potential", torch.zeros(num_atoms, dtype=torch.float64))
        self.register_buffer("classes", torch.zeros(num_atoms, dtype=torch.int64))
        self.register_buffer("scales", torch.ones(num_classes or 1))
        self.register_buffer("axes", torch.zeros(self.dim, rank or 0, dtype=torch.float64))
        self._maps = CellMaps()
        self._frozen_noise: Tensor | None = None

    @classmethod
    def fit(
        cls,
        data: Any,
        schedule: Any,
        timestep: float | None = None,
        labels: Tensor | None = None,
        noise: str = "coupled",
        smoothing: float = 0.0,
        tol: float = 0.05,
        max_draws: int | None = None,
        generator: torch.Generator | None = None,
        *,
        correlation: float = 1.0,
        weights: Tensor | None = None,
        num_classes: int | None = None,
        rank: int | float | None = None,
        value_range: Any = "auto",
        throw: bool = True,
        progress: Callable[[Progress], None] | None = None,
        precision: str = "auto",
        checkpoints: str | Path | None = None,
        ranks: Processes | None = None,
    ) -> Self:
        """Solves the transport from N(0, I) to the images.

        Arguments:
            data: Clean images, the atoms: an `ImageSet`, or (N, C, H, W) uint8, or floats in [-1, 1].
            schedule: A `NoiseSchedule` or a diffusers scheduler.
            timestep: t*, in the scheduler's units; by default that of `usual_log_snr`. `at` changes it later.
            labels: Class labels, (N,), for a conditional prior.
            noise: "coupled", "fresh" or "frozen".
            smoothing: In units of τ.
            tol: χ² of the cell masses to reach, upper 95 % limit; of each class's map.
            max_draws: When to give up, for each map.
            generator: Seeds the solve and the frozen noise.
            correlation: ρ of a "coupled" start's noise with the seed's.
            weights: Masses of the atoms, (N,), sum 1; uniform by default. (Of a class: its own, rescaled.)
            num_classes: Number of classes; by default the largest label + 1.
            rank: Solve, and find cells, along so many leading principal axes (an integer), or along as many as keep
                this share of the variance (a float). Faster; `facts` says what it costs.
            value_range: See `otprior.data.images.check_images`; None for latents.
            throw: Whether an unsolved problem raises or is kept, with its χ² in `facts`.
            progress: Called with a `solver.Progress` now and then.
            precision, ranks: See `solve_semidiscrete`.
            checkpoints: A folder that keeps the state of a long solve, a file a map; what is there is gone on from.

        Raises:
            ValueError: On bad images, labels, weights, timestep or options.
            ConvergenceError: If tol is not reached and `throw` is true.
        """
        noise_schedule = as_schedule(schedule)
        # What can be wrong is found out before a solve that may take minutes.
        timestep = cls.usual_timestep(noise_schedule) if timestep is None else timestep
        noise_schedule.check_timestep(timestep)
        _check_options(noise, smoothing, correlation)
        images, count = read_data(data, labels, value_range, num_classes)
        atoms = images.images.flatten(1).contiguous()
        whole = DiscreteMeasure.build(atoms, weights)
        classes = torch.zeros(len(atoms), dtype=torch.int64) if images.labels is None else images.labels
        generator = generator if generator is not None else torch.Generator().manual_seed(0)

        projection = None if rank is None else project(atoms, whole.given_weights(), rank)
        solved_atoms = atoms if projection is None else projection.apply(atoms)
        potential = torch.full((len(atoms),), float("-inf"), dtype=torch.float64)
        scales = torch.ones(count or 1)
        solutions, excess = [], 0.0
        present = classes.unique().tolist()
        for label in present if weights is not None else ():
            positive = bool((torch.as_tensor(weights).cpu()[classes == label] > 0).any())
            require(positive, "weights", f"positive somewhere in class {label}", "all zero")
        for label in present:
            rows = torch.nonzero(classes == label).reshape(-1)
            mass = None if weights is None else _mass(weights, rows)
            # (A selection is a copy, which atoms mapped from a file had better be spared.)
            part = solved_atoms if count is None else solved_atoms[rows]
            solution = solve_semidiscrete(
                part,
                mass,
                generator=generator,
                tol=tol,
                max_draws=max_draws,
                throw=throw,
                progress=progress,
                precision=precision,
                checkpoint=None if checkpoints is None else Path(checkpoints) / f"map-{label}.safetensors",
                processes=ranks,
            )
            measure = whole if count is None and projection is None else DiscreteMeasure.build(part, mass)
            # A duplicate is never chosen, as ties go to the first; −∞ keeps it out of the softmax as well.
            potential[rows[measure.index]] = solution.potential.cpu()[measure.index]
            # (One atom alone has no scale, and needs none.)
            scales[label] = float(natural_scale(measure.atoms, measure.weights).median()) or 1.0
            solutions.append(solution)
            if projection is not None:
                own = atoms[rows[measure.index].to(atoms.device)]
                offsets = solution.potential[measure.index]
                share = excess_share(projection, own, measure.atoms, offsets, seed_from(generator))
                excess = max(excess, share)

        prior = cls(
            shape=list(images.images.shape[1:]),
            schedule=noise_schedule.to_dict(),
            timestep=timestep,
            num_atoms=len(atoms),
            noise=noise,
            smoothing=smoothing,
            correlation=correlation,
            num_classes=count,
            rank=None if projection is None else projection.axes.shape[1],
            frozen_seed=seed_from(generator),
            facts={
                **fit_facts(images, solutions),
                **_projection_facts(projection, excess),
            },
        )
        axes = prior.axes if projection is None else projection.axes
        tensors = {"atoms": atoms, "potential": potential, "classes": classes, "scales": scales, "axes": axes}
        prior.load_state_dict(tensors, assign=True)
        return prior.to(atoms.device).eval()

    def with_options(self, **options: Any) -> Self:
        """The same map with another `noise`, `smoothing` or `correlation`; shares tensors, solves nothing again."""
        unknown = sorted(set(options) - {"noise", "smoothing", "correlation"})
        require(not unknown, "options", "noise, smoothing or correlation", unknown)
        return self._with(**options)

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        return self._start_and_source(z, labels, fresh)[0]

    def _start_and_source(
        self, z: Tensor, labels: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.smoothing:
            source, signal = self._source_and_barycentre(z, labels)
        else:
            source = self._source(z, labels)
            signal = self.atoms[source]
        if self.noise == "frozen":
            return self.alpha * signal + self.sigma * self._noise_of_atoms()[source], source
        return self._noised(signal, z, fresh), source

    def _noised(self, signal: Tensor, z: Tensor, fresh: Tensor | None) -> Tensor:
        """α signal + σ (the seed's noise, or what replaces all or part of it)."""
        noise = z
        if fresh is not None:
            rho = self.correlation if self.noise == "coupled" else 0.0
            noise = rho * z + (1 - rho**2) ** 0.5 * fresh
        return self.alpha * signal + self.sigma * noise

    def _source(self, z: Tensor, labels: Tensor | None) -> Tensor:
        source = torch.empty(len(z), dtype=torch.int64, device=z.device)
        for label, rows in rows_by_class(labels):
            brenier, index = self._map_of(label)
            source[rows] = index[brenier.assign(self._seen(z[rows]))]
        return source

    def _source_and_barycentre(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        source = torch.empty(len(z), dtype=torch.int64, device=z.device)
        mean = torch.empty_like(z)
        for label, rows in rows_by_class(labels):
            brenier, index = self._map_of(label)
            smoothing = self.smoothing * float(self.scales[label])
            atoms = self.atoms if len(index) == len(self.atoms) else self.atoms[index]
            cells, mean[rows] = brenier.assign_and_barycentre(self._seen(z[rows]), smoothing, atoms)
            source[rows] = index[cells]
        return source, mean

    def _seen(self, rows: Tensor) -> Tensor:
        """What of rows (B, d) cells are found from: their coordinates along the axes, or all."""
        if not self.axes.shape[1]:
            return rows
        # In float64, so that a row's coordinates do not depend on the rows beside it.
        return (rows.double() @ self.axes).to(rows.dtype)

    def _map_of(self, label: int) -> tuple[BrenierPotential, Tensor]:
        """The potential of one class, over its atoms of positive weight, and their indices."""
        return self._maps.of(label, self.atoms, self.potential, self.classes, self._seen)

    def _noise_of_atoms(self) -> Tensor:
        if self._frozen_noise is None or self._frozen_noise.device != self.atoms.device:
            blocks = range(-(-len(self.atoms) // FROZEN_BLOCK))
            seed = self.config["frozen_seed"]
            drawn = [normal_block(seed, "frozen", block, FROZEN_BLOCK, self.dim) for block in blocks]
            self._frozen_noise = torch.cat(drawn)[: len(self.atoms)].to(self.atoms.device)
        return self._frozen_noise

    def _card(self) -> str:
        return _CARD.format(
            atoms=len(self.atoms),
            **{key: self.facts.get(key) or "not stated" for key in ("source", "license", "sha256")},
        )


def _check_options(noise: str, smoothing: float, correlation: float) -> None:
    check_choice("noise", noise, NOISES)
    good = isinstance(smoothing, int | float) and 0 <= smoothing < float("inf")
    require(good, "smoothing", "a finite number >= 0", smoothing)
    require(smoothing == 0 or noise != "frozen", "smoothing", "0 with noise='frozen'", smoothing)
    in_range = isinstance(correlation, int | float) and 0 < correlation <= 1
    require(in_range, "correlation", "in (0, 1]", correlation, "For 0 use noise='fresh'.")
    require(correlation == 1 or noise == "coupled", "correlation", f"1 with noise={noise!r}", correlation)


def _mass(weights: Tensor, rows: Tensor) -> Tensor:
    """The masses of some atoms, rescaled to sum 1."""
    mass = torch.as_tensor(weights).double().cpu()[rows]
    return mass / mass.sum()


def fit_facts(images: ImageSet, solutions: list[Solution]) -> dict[str, Any]:
    """Where the images are from; the worst χ² over the classes' maps, and their summed effort."""
    worst = max(solutions, key=lambda solution: solution.chi2.upper)
    return {
        "source": images.source,
        "license": images.license,
        "sha256": images.sha256,
        "chi2": worst.chi2.value,
        "chi2_upper": worst.chi2.upper,
        "outcome": worst.outcome.value,
        "method": worst.stats["method"],
        "draws": sum(solution.stats["draws"] for solution in solutions),
        "seconds": sum(solution.stats["seconds"] for solution in solutions),
    }


def _projection_facts(projection: Projection | None, excess: float) -> dict[str, Any]:
    """What solving along few axes keeps, and costs: the share of W2² by which the worst of the maps is above the
    optimum at most, as measured."""
    if projection is None:
        return {}
    return {"variance_kept": projection.variance_kept, "cost_excess_share": excess}


_CARD = """\
# This folder holds training images

A semi-discrete prior stores the {atoms} images that it was fitted on, in full (`model.safetensors`, tensor `atoms`).
Sharing it shares them.

- source: {source}
- licence: {license}
- SHA-256 of the pixels: {sha256}
"""
