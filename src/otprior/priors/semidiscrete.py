"""The semi-discrete prior: the seed is sent to the clean image whose Laguerre cell it lies in, and keeps its own noise.

With i(z) the cell of z in the optimal transport from N(0, I) to the atoms y_i, the start is

- coupled (default): α y_{i(z)} + σ z. McCann's interpolation between z and its transport image, times α + σ: the
  optimal map onto its own law. That law is not p_t*: E|x|² is larger by 2 α σ E⟨z, y_i⟩, and W2(coupled, fresh) ≤
  σ √(2 ln N) whatever the dimension (Talagrand's inequality on each cell).
- coupled with correlation ρ < 1: α y_{i(z)} + σ (ρ z + √(1 − ρ²) ε), between coupled and fresh. The part of the
  noise that is drawn anew carries none of the atom, so less of the atom survives (it copies less at the same t*).
- whitened: α y_{i(z)} + σ R_i(z), where R_i carries the seed's law within the cell of y_i back to nearly N(0, I) (see
  `otprior.transport.whitening`). So the law is nearly the empirical p_t*, and yet a start is a function of its seed.
- fresh: α y_{i(z)} + σ ε with ε drawn anew. Its law is the empirical p_t*, up to the cell masses.
- frozen: α y_{i(z)} + σ ε_{i(z)} with one ε an atom, drawn once: DPM-OT as published. At most N distinct starts.

`smoothing` replaces the atom by the softmax-weighted mean of all (a barycentric projection). With `rank` the cell is
found from the seed's coordinates along the atoms' leading principal axes only (see `projection`). The map does not
depend on t*: `prior.at(t)` solves nothing.

References:
    Li et al., DPM-OT: a new diffusion probabilistic model based on optimal transport (2023), arXiv:2307.11308.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.priors.card import data_facts
from otprior.priors.class_maps import ClassMaps
from otprior.priors.data import read_data, rows_by_class
from otprior.priors.options import option
from otprior.priors.solved import CellMaps, SolvedPrior, SolveOptions, fit_facts
from otprior.transport.distributed import Processes
from otprior.transport.potential import BrenierPotential
from otprior.transport.solution import Progress
from otprior.utils.numpy_files import load_numpy
from otprior.utils.random import normal_block, seed_from
from otprior.utils.validation import invalid, require

NOISES = ("coupled", "whitened", "fresh", "frozen")
FROZEN_BLOCK = 1024
LEAST_SMOOTHING = 1e-6  # below it scores overflow; 0 is the limit
MOST_SMOOTHING = 1e6  # the mean of all atoms to a float's rounding, long before


def _read_rank(text: str) -> int | float:
    """ "64" axes, or "0.95" of the variance."""
    rule = "a whole number of axes >= 1, or a share of variance such as 0.95"
    try:
        rank = float(text) if "." in text else int(text)
    except ValueError:
        raise invalid("rank", rule, text) from None
    require(rank >= 1 if isinstance(rank, int) else 0 < rank < 1, "rank", rule, text)
    return rank


def _read_weights(path: str) -> Tensor:
    """An array of numbers from a .npy file."""
    if not Path(path).exists():
        raise FileNotFoundError(f"weights {path}: there is no such file or folder")
    weights = load_numpy(Path(path), what="weights").get("images")
    numbers = isinstance(weights, np.ndarray) and weights.dtype.kind in "iuf"
    rule = "one array of numbers in a .npy file, real ones"
    require(numbers, f"weights {path}", rule, getattr(weights, "dtype", "an archive"))
    return torch.from_numpy(np.asarray(weights, dtype=np.float64))


@dataclass(frozen=True)
class SemiDiscreteOptions(SolveOptions):
    """What can be chosen about a semi-discrete prior."""

    noise: str = option(
        "coupled",
        "Noise of a start: the seed's own (coupled), brought back to N(0, I) within its cell (whitened), drawn anew "
        "(fresh), or one for each atom (frozen).",
        choices=NOISES,
        of_start=True,
    )
    smoothing: float = option(
        0.0,
        "Temperature of a softmax over atoms, in units of their natural scale τ; 0 takes the best alone.",
        of_start=True,
        metavar="EPS",
    )
    correlation: float = option(
        1.0, "Correlation ρ in (0, 1] of coupled noise with the seed's.", of_start=True, metavar="RHO"
    )
    weights: Tensor | None = option(
        None,
        "Masses of the images, (N,), of sum 1, as a .npy file; equal by default. (Rescaled in each class.)",
        type=Path,
        read=_read_weights,
        metavar="FILE",
    )
    rank: int | float | None = option(
        None,
        "Solve, and find cells, along so many leading principal axes, or along as many as keep this share of the "
        "variance, such as 0.95. Faster; the report says what it costs.",
        type=float,
        read=_read_rank,
        metavar="R",
    )
    precision: str = option(
        "auto",
        "Precision of the products with the atoms; bfloat16 scores again in float64 what it cannot tell apart. auto "
        "takes what is fast here.",
        choices=("auto", "float32", "bfloat16"),
    )

    def check(self) -> None:
        smoothing, correlation, noise = self.smoothing, self.correlation, self.noise
        number = isinstance(smoothing, int | float)
        good = number and (smoothing == 0 or LEAST_SMOOTHING <= smoothing <= MOST_SMOOTHING)
        require(good, "smoothing", f"0, or a number in [{LEAST_SMOOTHING}, {MOST_SMOOTHING}]", smoothing)
        rule = f"0 with noise={noise!r}"
        require(smoothing == 0 or noise not in ("frozen", "whitened"), "smoothing", rule, smoothing)
        in_range = isinstance(correlation, int | float) and 0 < correlation <= 1
        require(in_range, "correlation", "in (0, 1]", correlation, "For 0 use noise='fresh'.")
        rule = f"1 with noise={noise!r}"
        require(correlation == 1 or noise == "coupled", "correlation", rule, correlation)


class SemiDiscretePrior(SolvedPrior):
    """T(z) = α y_{i(z)} + σ (z, or other noise); with labels, one map for each class.

    Build it with `fit`.

    Arguments:
        shape: Shape of a latent, such as (C, H, W).
        schedule: `NoiseSchedule.to_dict()`.
        timestep: t*.
        num_atoms: N.
        noise: "coupled", "whitened", "fresh" or "frozen".
        correlation: ρ in (0, 1], of the start's noise with the seed's; below 1 only with "coupled".
        smoothing: Temperature of the softmax over atoms, in units of τ (see
            `otprior.transport.potential.natural_scale`); 0 takes the best atom alone.
        num_classes: Number of class labels, or None.
        rank: Number of principal axes along which cells are found, or None for all directions.
        frozen_seed: Seeds the noise of "frozen".
        whitening: Number of axes of the whitening within cells, or None if it was not sampled.
        facts: What is known of data and solve: source, license, sha256; chi2, draws, seconds.

    Source: Li et al., DPM-OT, 2023, https://arxiv.org/abs/2307.11308, for "frozen"; McCann, "A convexity principle for
    interacting gases", 1997, for "coupled"; "whitened" is ours, see docs/concepts.md

    Examples:
        >>> coupled = SemiDiscretePrior.fit(images, scheduler, timestep=500, tol=0.3)
        >>> y = images.images[coupled.source(z)]  # the image behind each start
        >>> torch.allclose(coupled(z), coupled.alpha * y + coupled.sigma * z, atol=1e-5)
        True
    """

    kind = "semidiscrete"
    Options = SemiDiscreteOptions
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
        whitening: int | None = None,
    ) -> None:
        super().__init__()
        self.set_up(shape, schedule, timestep, num_classes)
        SemiDiscreteOptions(noise=noise, smoothing=smoothing, correlation=correlation)
        self.noise = noise
        self.correlation = float(correlation)
        self.smoothing = float(smoothing)
        self.needs_fresh = noise == "fresh" or correlation < 1
        self.facts = dict(facts or {})
        # (One zero, until the images take its place.)
        self.register_buffer("atoms", torch.zeros(1, 1).expand(num_atoms, self.dim))
        self.register_buffer("potential", torch.zeros(num_atoms, dtype=torch.float64))
        self.register_buffer("classes", torch.zeros(num_atoms, dtype=torch.int64))
        self.register_buffer("scales", torch.ones(num_classes or 1))
        self.register_buffer("axes", torch.zeros(self.dim, rank or 0, dtype=torch.float64))
        self._allot_whitening(rank or self.dim, whitening)
        self._maps = CellMaps()
        self._frozen_noise: Tensor | None = None

    def check_tensor(self, name: str, tensor: Tensor) -> None:
        super().check_tensor(name, tensor)
        known = self.facts.get("sha256")
        if name == "atoms" and known is not None:
            digest = ImageSet(tensor.reshape(-1, *self.shape)).sha256
            require(digest == known, name, "the images that it was fitted to, by their digest", "others")

    @classmethod
    def fit(
        cls,
        data: Any,
        schedule: Any,
        timestep: float | None = None,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        num_classes: int | None = None,
        value_range: Any = "auto",
        progress: Callable[[Progress], None] | None = None,
        checkpoints: str | Path | None = None,
        processes: Processes | None = None,
        **options: Any,
    ) -> Self:
        """Solves the transport from N(0, I) to the images.

        Arguments:
            data: Clean images, the atoms, of whatever `otprior.data.load_images` reads.
            schedule: A `NoiseSchedule` or a diffusers scheduler.
            timestep: t*, in the scheduler's units; by default that of `usual_log_snr`. `at` changes it later.
            labels: Class labels, (N,), for a conditional prior.
            generator: Seeds the solve and the frozen noise.
            num_classes: Number of classes; by default the largest label + 1.
            value_range: See `otprior.data.images.check_images`; None for latents.
            progress: Called with a `Progress` of the solver now and then.
            checkpoints: A folder that keeps the state of long solves, a file a map; a solve goes on from its own.
            processes: See `solve_semidiscrete`.
            **options: Those of `SemiDiscreteOptions`: noise, smoothing, correlation, tol, max_draws, throw, weights,
                rank, precision.

        Raises:
            ValueError: On bad images, labels, weights, timestep or options.
            ConvergenceError: If tol is not reached and `throw` is true.
        """
        # What can be wrong is found out before a solve that may take minutes.
        chosen = SemiDiscreteOptions.make(options)
        noise_schedule, timestep = cls.read_start(schedule, timestep)
        images, count = read_data(data, labels, value_range, num_classes)
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        found = ClassMaps(chosen, images.images.flatten(1).contiguous(), images.labels, count)
        found.solve(generator, checkpoints, progress=progress, processes=processes)
        start = {name: getattr(chosen, name) for name in cls.Options.of_start()}
        if chosen.noise == "whitened":
            start["noise"] = "coupled"
        prior = cls(
            shape=list(images.images.shape[1:]),
            schedule=noise_schedule.to_dict(),
            timestep=timestep,
            num_atoms=len(images),
            num_classes=count,
            rank=None if found.projection is None else found.projection.axes.shape[1],
            frozen_seed=seed_from(generator),
            facts=fit_facts(images, found.solutions) | found.projection_facts(),
            **start,
        )
        prior.load_state_dict({"axes": prior.axes, **found.tensors()}, assign=True)
        prior = prior.to(images.images.device).eval()
        return prior.whiten(generator=generator) if chosen.noise == "whitened" else prior

    @classmethod
    def searched_options(cls) -> list[dict[str, Any]]:
        """The seed's own noise, or part of it, as copying falls with ρ; whitened; fresh."""
        coupled = ({"correlation": rho} for rho in (0.6, 0.85, 1.0))
        return [*coupled, {"noise": "whitened"}, {"noise": "fresh"}]

    @classmethod
    def nearby_options(cls, options: Mapping[str, Any]) -> list[tuple[dict[str, Any], float]]:
        """Other correlations; and smoothing, which copies less, so that sampling may start later in the process."""
        given = cls.Options.make(options)
        if given.noise != "coupled":
            return []
        other = [round(given.correlation + shift, 3) for shift in (-0.1, 0.1)]
        near = [({**options, "correlation": rho}, 0.0) for rho in other if 0 < rho <= 1]
        smoothed = {**options, "smoothing": 0.15}
        return [*near, (smoothed, 0.0), (smoothed, 0.25)]

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> str:
        """With its noise: "semidiscrete fresh"."""
        return f"semidiscrete {options.get('noise') or 'coupled'}"

    @classmethod
    def reported_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """All three of the start; the correlation of coupled noise only."""
        chosen = cls.Options.make(options)
        coupled = chosen.noise == "coupled"
        return {
            "noise": chosen.noise,
            "smoothing": chosen.smoothing,
            "correlation": chosen.correlation if coupled else None,
        }

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        return self._start_and_source(z, labels, fresh)[0]

    def _start_and_source(
        self, z: Tensor, labels: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.noise == "whitened":
            source, white = self._source_and_white(z, labels)
            return self.alpha * self.atoms[source] + self.sigma * white, source
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
        """Their coordinates along the axes, or all."""
        if not self.axes.shape[1]:
            return rows
        # In float64, so that a row's coordinates do not depend on the other rows.
        return (rows.double() @ self.axes).to(rows.dtype)

    def _unseen(self, rows: Tensor) -> Tensor:
        return rows if not self.axes.shape[1] else (rows.double() @ self.axes.T).to(rows.dtype)

    def _map_of(self, label: int) -> tuple[BrenierPotential, Tensor]:
        return self._maps.find(label, self.atoms, self.potential, self.classes, self._seen)

    def _noise_of_atoms(self) -> Tensor:
        if self._frozen_noise is None or self._frozen_noise.device != self.atoms.device:
            blocks = range(-(-len(self.atoms) // FROZEN_BLOCK))
            seed = self.config["frozen_seed"]
            drawn = [normal_block(seed, "frozen", block, FROZEN_BLOCK, self.dim) for block in blocks]
            self._frozen_noise = torch.cat(drawn)[: len(self.atoms)].to(self.atoms.device)
        return self._frozen_noise

    def _card(self) -> str:
        return _CARD.format(atoms=len(self.atoms)) + data_facts(self.facts)


_CARD = """\
# This folder holds training images

A semi-discrete prior stores the {atoms} images that it was fitted on, in full (`model.safetensors`, tensor `atoms`).
Sharing it shares them.

"""
