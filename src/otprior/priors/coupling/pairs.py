"""Pairs (z, y_i) of noise and image, drawn from the optimal transport between N(0, I) and a data set.

A flow is trained on pairs (z, y) of noise and image, and learns E[y − z | x_t] at x_t = (1 − t) z + t y. Any coupling
of N(0, I) and the data serves; independent pairs are only the simplest. Here z ~ N(0, I) and y = y_{i(z)}, the image of
the Laguerre cell that z lies in:

    i(z) = argmax_i ⟨z, y_i⟩ + h_i.

Each image has as many pairs as its weight says, up to χ² of the map, and E|z − y|² is the least that there is. With
entropy ε > 0 the image is drawn with the probabilities s_i(z) = softmax_i (⟨z, y_i⟩ + h_i)/ε, for offsets h that were
solved with this ε. By class, a label is drawn first, then z, and the image from the map of that class: so noise and
label are independent, as they have to be for a network that is asked for a class.

A pair costs one product of its noise with all N images: 2 N d floating-point operations, 0.8 ms on one core of a CPU
for N = 60,000 and d = 784.

References:
    Mousavi-Hosseini, Zhang, Klein & Cuturi, Flow matching with semidiscrete couplings (2025), arXiv:2509.25519.
    AlignFlow (2025), arXiv:2510.15038.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from otprior.data.images import ImageSet, check_labels
from otprior.priors.coupling.building import read_maps, solve_maps, take_prior, take_solution, write_maps
from otprior.priors.coupling.maps import PairMaps
from otprior.priors.data import read_data
from otprior.priors.semidiscrete import SemiDiscretePrior
from otprior.transport.distributed import Processes
from otprior.transport.solution import Progress, Solution
from otprior.utils.random import stream_generator
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import (
    as_numbers,
    check_finite,
    check_generator,
    check_integer,
    check_tensor,
    invalid,
    plain_number,
    plain_numbers,
    require,
)

if TYPE_CHECKING:
    from otprior.priors.coupling.stream import PairStream

TOLERANCE = 0.05
REJECTION_BLOCK = 4096


class Pairs(NamedTuple):
    """A batch of pairs.

    Attributes:
        noise: z, shape (B, *shape), float32.
        images: y, the same shape.
        labels: Class labels of the images, int64 (B,); None where the data have none.
        source: Which image of the data set each is, int64 (B,); the first of equal ones.
    """

    noise: Tensor
    images: Tensor
    labels: Tensor | None
    source: Tensor


@dataclass(frozen=True, eq=False)
class SemiDiscreteCoupling:
    """The coupling of N(0, I) with a data set. Build it with `fit`, `from_prior`, `from_solution` or `load`.

    Attributes:
        images: The data set: clean images, with their labels if they have any.
        maps: What noise is assigned by; `maps.entropy` is ε.
        chi2_upper: Upper 95 % limit of χ² of the cells' masses, the largest over the maps.

    Examples:
        >>> coupling = SemiDiscreteCoupling.fit(images, labels)  # or .from_prior(prior)
        >>> noise, images, labels, source = coupling.sample(256, torch.Generator().manual_seed(0))
    """

    images: ImageSet
    maps: PairMaps
    chi2_upper: float

    # Building ----------------------------------------------------------------------------------------------

    @classmethod
    @plain_numbers
    @plain_torch()
    def fit(
        cls,
        data: Any,
        labels: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        entropy: float = 0.0,
        tol: float = TOLERANCE,
        num_classes: int | None = None,
        value_range: Any = "auto",
        generator: torch.Generator | None = None,
        checkpoints: str | Path | None = None,
        max_draws: int | None = None,
        progress: Callable[[Progress], None] | None = None,
        precision: str = "auto",
        processes: Processes | None = None,
    ) -> SemiDiscreteCoupling:
        """Solves the transport from N(0, I) to the images, or to those of each class.

        Arguments:
            data: Clean images of whatever `otprior.data.load_images` reads; with `value_range=None` any (N, ...). The
                labels of an `ImageSet` are carried by batches.
            labels: Class labels, (N,), for one map a class.
            weights: Masses of the images, (N,), of sum 1; equal by default. A class has the sum of its images'.
            entropy: ε, in units of a score ⟨z, y⟩.
            tol: Upper 95 % limit of χ² to reach, for each map.
            num_classes: Number of classes; by default the largest label + 1. Only with labels.
            value_range: See `otprior.data.images.check_images`; None for latents.
            generator: Seeds the solve; None stands for a fixed seed.
            checkpoints: A folder that keeps the state of long solves, a file a map; a solve goes on from its own.
            max_draws, progress, precision, processes: See `solve_semidiscrete`.

        Raises:
            ValueError: On bad images, labels, weights or options.
            ConvergenceError: If tol is not reached.
        """
        images, count = read_data(data, labels, value_range, num_classes)
        if labels is None and isinstance(data, ImageSet):
            images = replace(images, labels=data.labels)
        generator = generator if generator is not None else torch.Generator("cpu").manual_seed(0)
        solver = {"entropy": entropy, "tol": tol, "generator": generator, "max_draws": max_draws}
        solver |= {"progress": progress, "precision": precision, "processes": processes}
        return cls(*solve_maps(images, count, weights, solver, checkpoints))

    @classmethod
    def from_prior(
        cls, prior: SemiDiscretePrior, data: Any = None, labels: Any = None, tol: float = TOLERANCE
    ) -> SemiDiscreteCoupling:
        """The coupling of a prior's map, whatever its noise and timestep; by class if the prior is.

        Arguments:
            prior: A fitted prior. (By class, labels are drawn by the number of images, also if these have weights.)
            data: The images that it was fitted to, to check that they are still the same, and for their labels.
            labels: Labels that batches are to carry, (N,), for a prior of one map.
            tol: The largest upper limit of χ² that is accepted.

        Raises:
            ValueError: If data are not those that the prior was fitted to, or the map is not solved to `tol`.
        """
        return cls(*take_prior(prior, data, labels, tol))

    @classmethod
    def from_solution(
        cls, solution: Solution, data: Any, labels: Any = None, tol: float = TOLERANCE
    ) -> SemiDiscreteCoupling:
        """The coupling of one solved map, with its entropy.

        Arguments:
            solution: From `solve_semidiscrete(data.flatten(1), ...)`, with source N(0, I).
            data: The atoms in their order, shaped as images: (N, C, H, W) or any (N, ...).
            labels: Labels that batches are to carry, (N,).
            tol: The largest upper limit of χ² that is accepted.

        Raises:
            ValueError: If data are not the atoms, the source is another, or the map is not solved to `tol`.
        """
        return cls(*take_solution(solution, data, labels, tol))

    def save(self, path: str | Path) -> None:
        """Writes the map to a .safetensors file: offsets, classes and a digest of the images, not the images."""
        write_maps(path, self.images, self.maps, self.chi2_upper)

    @classmethod
    def load(cls, path: str | Path, data: Any, labels: Any = None) -> SemiDiscreteCoupling:
        """Reads a map that `save` wrote.

        Arguments:
            path: The file.
            data: The images that it was solved for. Floating-point values are taken as they are: what was fitted with
                a `value_range` of pixels is given as `otprior.data.load_images` reads it with that range.
            labels: Labels that batches are to carry, (N,), for a coupling of one map.

        Raises:
            ValueError: If the file is damaged, or the images are others.
        """
        return cls(*read_maps(path, data, labels))

    def to(self, device: str | torch.device) -> SemiDiscreteCoupling:
        """The same coupling with data and maps on another device, where noise is then assigned."""
        maps, labels = self.maps.to(device), self.images.labels
        values = maps.atoms.reshape(self.images.images.shape)
        moved = replace(self.images, images=values, labels=None if labels is None else labels.to(device))
        return replace(self, images=moved, maps=maps)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image."""
        return tuple(self.images.images.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where noise is assigned."""
        return self.images.images.device

    # Pairs -------------------------------------------------------------------------------------------------

    @plain_torch()
    def sample(self, batch: int, generator: torch.Generator, labels: Any = None) -> Pairs:
        """Draws independent pairs, noise first.

        Arguments:
            batch: Number of pairs B.
            generator: Draws them, on its own device.
            labels: By class, the classes wanted, (B,); by default drawn with the probabilities of the data.

        Raises:
            ValueError: If labels are given to one map, or are classes without images.
        """
        check_integer("batch", batch, 1)
        check_generator(generator)
        dim, device = math.prod(self.shape), generator.device
        uniform = torch.rand(2, batch, generator=generator, dtype=torch.float64, device=device)
        noise = torch.randn(batch, dim, generator=generator, dtype=torch.float32, device=device)
        return self._pair(noise.to(self.device), labels, uniform)

    @plain_torch()
    def draw(self, seed: int, numbers: Sequence[int]) -> Pairs:
        """The pairs of these numbers in the stream of a seed: a pair depends on its number, not on the others.

        Arguments:
            seed: Of the stream, a nonnegative integer.
            numbers: Which pairs, nonnegative integers.

        Raises:
            ValueError: If seed or a number is none.
        """
        check_integer("seed", seed, 0)
        for number in numbers:
            check_integer("numbers", plain_number(number), 0)
        dim = math.prod(self.shape)
        uniform = torch.empty(2, len(numbers), dtype=torch.float64)
        noise = torch.empty(len(numbers), dim, dtype=torch.float32)
        for row, number in enumerate(numbers):
            generator = stream_generator(seed, "pairs", number)
            uniform[:, row] = torch.rand(2, generator=generator, dtype=torch.float64)
            noise[row] = torch.randn(dim, generator=generator, dtype=torch.float32)
        return self._pair(noise.to(self.device), None, uniform)

    @plain_torch()
    def pair(self, noise: Tensor, labels: Any = None, generator: torch.Generator | None = None) -> Pairs:
        """Finds the images of given noise.

        Arguments:
            noise: Draws of N(0, I), shape (B, *shape), on the coupling's device.
            labels: By class, the class of each, (B,); None for one map.
            generator: Draws the images of a coupling with entropy, and is not used otherwise.

        Raises:
            ValueError: On noise of another shape or device, NaN, missing labels, classes without a map, or no
                generator where there is entropy.
        """
        flat, labels = self.check_batch(noise), self.maps.check_labels(labels, len(noise))
        uniform = None
        if self.maps.entropy:
            require(generator is not None, "generator", "given to a coupling with entropy", None)
            check_generator(generator)
            assert generator is not None
            device = generator.device
            uniform = torch.rand(len(noise), generator=generator, dtype=torch.float64, device=device)
        return self._pairs(flat, self.maps.assign(flat, labels, uniform))

    @plain_torch()
    def noise_of(self, index: Tensor, generator: torch.Generator, max_draws: int = 1 << 20) -> Tensor:
        """Draws the noise of given images: image first, by rejection within its cell.

        An image of mass ν in its map takes 1/ν draws on average, so this is for up to some thousand images a map.
        Pairs of images that are drawn with their weights have the law of `sample`'s.

        Arguments:
            index: Images, int64 (B,).
            generator: Draws the noise.
            max_draws: When to give up, for each map.

        Returns:
            Shape (B, *shape), float32.

        Raises:
            ValueError: If an image has no cell (a later duplicate, or of weight zero), or its noise was not found.
        """
        check_integer("max_draws", max_draws, 1)
        index = as_numbers("index", index)
        require(index.ndim == 1, "index", "of shape (B,)", tuple(index.shape))
        index = check_labels(index, len(index), len(self.images), "index").to(self.device)
        bad = index[~torch.isfinite(self.maps.potential[index])].tolist()
        require(not bad, "index", "images with a cell: no later duplicates, none of weight zero", bad[:5])
        noise = torch.empty(len(index), *self.shape, device=self.device)
        classes = self.maps.classes[index]
        for label in classes.unique().tolist():
            rows = torch.nonzero(classes == label).reshape(-1)
            noise[rows] = self._reject(index[rows], label, generator, max_draws)
        return noise

    def stream(
        self, batch_size: int, seed: int = 0, *, steps: int | None = None, rank: int = 0, ranks: int = 1
    ) -> PairStream:
        """A torch `IterableDataset` of batches of numbered pairs; see `stream.PairStream`."""
        from otprior.priors.coupling.stream import PairStream

        return PairStream(self, batch_size, seed, steps=steps, rank=rank, ranks=ranks)

    def check_batch(self, noise: Tensor) -> Tensor:
        """Noise as rows (B, d), float32, after checks of type, shape, device and values.

        Raises:
            ValueError: If it is no floating-point tensor, shape or device are others than the images', or a value is
                not finite in float32.
        """
        check_tensor("noise", noise)
        require(noise.is_floating_point(), "noise", "floating-point", noise.dtype)
        right = tuple(noise.shape[1:]) == self.shape
        require(right, "noise", f"of shape (B, {', '.join(map(str, self.shape))})", tuple(noise.shape))
        hint = "Move the batch, or the coupling: coupling.to(device)"
        require(
            noise.device == self.device, "noise", f"on {self.device}, as the coupling", noise.device, hint
        )
        flat = noise.detach().float().flatten(1)
        check_finite("noise", flat)
        return flat

    def _pair(self, noise: Tensor, labels: Any, uniform: Tensor) -> Pairs:
        """Pairs from rows (B, d) of noise, and two uniform draws a row, (2, B): for the label and the image."""
        labels = self.maps.draw_labels(uniform[0]) if labels is None else labels
        labels = self.maps.check_labels(labels, len(noise))
        return self._pairs(noise, self.maps.assign(noise, labels, uniform[1]))

    def _pairs(self, noise: Tensor, index: Tensor) -> Pairs:
        labels = None if self.images.labels is None else self.images.labels[index]
        return Pairs(noise.reshape(-1, *self.shape), self.images.images[index], labels, index)

    def _reject(self, index: Tensor, label: int, generator: torch.Generator, max_draws: int) -> Tensor:
        waiting: dict[int, list[int]] = {}
        for row, image in enumerate(index.tolist()):
            waiting.setdefault(image, []).append(row)
        noise = torch.empty(len(index), *self.shape, device=self.device)
        labels = None if self.maps.class_mass is None else torch.full((REJECTION_BLOCK,), label)
        for _ in range(-(-max_draws // REJECTION_BLOCK)):
            pairs = self.sample(REJECTION_BLOCK, generator, labels)
            for place, image in enumerate(pairs.source.tolist()):
                if waiting.get(image):
                    noise[waiting[image].pop()] = pairs.noise[place]
            if not any(waiting.values()):
                return noise
        left = sum(map(len, waiting.values()))
        hint = "It takes 1/ν draws an image of mass ν: draw noise first (`sample`), or raise max_draws"
        raise invalid("index", f"images whose noise is found in {max_draws:,} draws", f"{left} without", hint)
