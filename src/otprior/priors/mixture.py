"""The mixture prior: clusters of the data as low-rank Gaussians, and a map onto them. No image is stored.

The data's law is taken as Σ_k π_k N(μ_k, Σ_k), Σ_k of low rank plus isotropic, fitted by EM; how many clusters and axes
is chosen by the likelihood of images set aside (`otprior.priors.clusters`). Semi-discrete transport from N(0, I) to the
means, of masses π_k, gives the seed's cluster k(z), and the gaussian map of that cluster its start:

    T(z) = α μ_{k(z)} + (α² Σ_{k(z)} + σ² I)^{1/2} z.

With `noise="whitened"` the last z is R_k(z), whose law within the cluster's cell is nearly N(0, I) again (see
`otprior.transport.whitening`). With `noise="fresh"` it is drawn anew: in law a random cluster's Gaussian, the p_t* of
the mixture up to the clusters' masses, without anything that transport adds. It is the rival of the others.

One cluster is the gaussian prior; a cluster an image is the coupled semidiscrete one. Between them, as there, the seed
stays the noise and leans towards its cluster, so a start carries more of it than p_t* does.

A cluster of n images keeps at most n/3 axes, so that no image can be read off the cluster's own: what is stored are
means, and the directions in which many images differ. (That is no guarantee of privacy.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from otprior.priors.clusters import fit_clusters
from otprior.priors.data import images_by_class, read_data, rows_by_class
from otprior.priors.options import option
from otprior.priors.solved import CellMaps, SolvedPrior, SolveOptions, fit_facts
from otprior.transport.gaussian_mixture import GaussianMixture
from otprior.transport.potential import BrenierPotential
from otprior.transport.solution import Progress
from otprior.transport.solve import solve_semidiscrete
from otprior.utils.validation import check_integer, require

NOISES = ("coupled", "whitened", "fresh")


@dataclass(frozen=True)
class MixtureOptions(SolveOptions):
    """What can be chosen about a mixture prior."""

    noise: str = option(
        "coupled",
        "Noise of a start: the seed's own (coupled), brought back to N(0, I) within its cell (whitened), or drawn anew "
        "(fresh).",
        choices=NOISES,
        of_start=True,
    )
    components: int | None = option(
        None,
        "Clusters of each class; by default as many as the likelihood of images set aside asks for. A few less may "
        "come out: an image that has a cluster for itself joins the next one.",
        type=int,
        minimum=1,
        metavar="K",
    )
    rank: int | None = option(
        None,
        "The most principal axes of a cluster; by default as many as that likelihood asks for.",
        type=int,
        minimum=1,
        metavar="R",
    )

    def check_images(self, parts: list[tuple[int, Tensor]]) -> None:
        """Refuses more axes or clusters than the images of each class, (n, d), allow."""
        if self.rank is not None:
            check_integer("rank", self.rank, 1, parts[0][1].shape[1])
        if self.components is not None:
            check_integer("components", self.components, 1)
        fewest = min(len(rows) for _, rows in parts)
        rule = f"at most half of {fewest} images"
        require(2 * (self.components or 1) <= fewest, "components", rule, self.components)


class MixturePrior(SolvedPrior):
    """T(z) = α μ_k + (α² Σ_k + σ² I)^{1/2} z, k the cluster whose cell z lies in; with labels, clusters by class.

    Build it with `fit`.

    Arguments:
        shape: Shape of a latent, such as (C, H, W).
        schedule: `NoiseSchedule.to_dict()`.
        timestep: t*.
        components: Number of clusters K, of all classes together.
        rank: Axes kept of a cluster.
        noise: "coupled", the seed's own, "whitened" or "fresh".
        num_classes: Number of class labels, or None.
        facts: What is known of data and solve: source, license, sha256; chi2, draws, seconds.
        whitening: Number of axes of the whitening within cells, or None if it was not sampled.

    Source: no paper; the map of each cluster is that of `GaussianPrior`, docs/concepts.md has the rest

    Examples:
        >>> mixture = MixturePrior.fit(images, scheduler, timestep=400, components=10)
        >>> mixture(z).shape
        torch.Size([2, 1, 28, 28])
    """

    kind = "mixture"
    Options = MixtureOptions
    atoms_name = "components"
    usual_log_snr = -1.43
    # It copies so little that it can start later in the process.
    # Its clusters are chosen for the first of these: nearer to one in law there is nearer at every later t*.
    searched_log_snr = (0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -2.5)
    means: Tensor  # (K, d)
    potential: Tensor  # (K,) float64
    bases: Tensor  # (K, d, rank); a cluster of few images has columns of zeros
    variances: Tensor  # (K, rank)
    residuals: Tensor  # (K,)
    classes: Tensor  # (K,) int64; all 0 when unconditional

    @register_to_config
    def __init__(
        self,
        shape: list[int],
        schedule: dict[str, Any],
        timestep: float,
        components: int,
        rank: int,
        noise: str = "coupled",
        num_classes: int | None = None,
        facts: dict[str, Any] | None = None,
        whitening: int | None = None,
    ) -> None:
        super().__init__()
        self.set_up(shape, schedule, timestep, num_classes)
        MixtureOptions(noise=noise)
        self.noise = noise
        self.needs_fresh = noise == "fresh"
        self.facts = dict(facts or {})
        self._maps = CellMaps()
        self.register_buffer("means", torch.zeros(components, self.dim))
        self.register_buffer("potential", torch.zeros(components, dtype=torch.float64))
        self.register_buffer("bases", torch.zeros(components, self.dim, rank))
        self.register_buffer("variances", torch.zeros(components, rank))
        self.register_buffer("residuals", torch.zeros(components))
        self.register_buffer("classes", torch.zeros(components, dtype=torch.int64))
        self._allot_whitening(self.dim, whitening)

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
        **options: Any,
    ) -> Self:
        """Fits clusters to the images, and solves the transport from N(0, I) to their means.

        Arguments:
            data: Clean images: an `ImageSet`, or (N, C, H, W) uint8, or floats in [-1, 1].
            schedule: A `NoiseSchedule` or a diffusers scheduler.
            timestep: t*, in the scheduler's units; by default that of `usual_log_snr` (400 on DDPM's linear betas). A
                mixture copies less than a semidiscrete prior, and can start later in the process.
            labels: Class labels, (N,), for a conditional prior.
            generator: Seeds clustering and solve.
            num_classes: Number of classes; by default the largest label + 1.
            value_range: See `otprior.data.images.check_images`; None for latents.
            progress: Called with a `Progress` of the solver now and then.
            **options: Those of `MixtureOptions`: noise, components, rank, tol, max_draws, throw.

        Raises:
            ValueError: On bad images, labels, timestep or options, or a class with fewer than two images.
            ConvergenceError: If tol is not reached and `throw` is true.
        """
        chosen = MixtureOptions.make(options)
        noise_schedule, timestep = cls.read_start(schedule, timestep)
        images, count = read_data(data, labels, value_range, num_classes)
        parts = list(images_by_class(images, count))
        chosen.check_images(parts)
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        noise = math.exp(-max(cls.searched_log_snr))
        laws = [fit_clusters(rows, chosen.components, chosen.rank, noise, generator) for _, rows in parts]
        reach: dict[str, Any] = {"tol": chosen.tol, "max_draws": chosen.max_draws, "throw": chosen.throw}
        solutions = [
            solve_semidiscrete(law.means, law.weights, generator=generator, progress=progress, **reach)
            for law in laws
        ]
        prior = cls(
            shape=list(images.images.shape[1:]),
            schedule=noise_schedule.to_dict(),
            timestep=timestep,
            components=sum(len(law.weights) for law in laws),
            rank=max(law.bases.shape[2] for law in laws),
            noise="coupled" if chosen.noise == "whitened" else chosen.noise,
            num_classes=count,
            facts=fit_facts(images, solutions),
        )
        prior.potential.copy_(torch.cat([solution.potential.cpu() for solution in solutions]))
        prior._store([label for label, _ in parts], laws)
        prior = prior.to(images.images.device).eval()
        return prior.whiten(generator=generator) if chosen.noise == "whitened" else prior

    def _store(self, labels: list[int], laws: list[GaussianMixture]) -> None:
        """Fills the buffers of clusters, class by class."""
        first = 0
        for label, law in zip(labels, laws):
            own = slice(first, first + len(law.weights))
            kept = law.bases.shape[2]
            self.means[own], self.residuals[own], self.classes[own] = law.means, law.residuals, label
            self.bases[own, :, :kept], self.variances[own, :kept] = law.bases, law.variances
            first = own.stop

    @classmethod
    def searched_options(cls) -> list[dict[str, Any]]:
        """Each noise."""
        return [{"noise": noise} for noise in NOISES]

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> str:
        """With its noise, unless it is the seed's."""
        noise = options.get("noise") or "coupled"
        return "mixture" if noise == "coupled" else f"mixture {noise}"

    @classmethod
    def reported_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Its noise, unless it is the seed's."""
        return {"noise": options.get("noise")}

    def summary(self) -> list[tuple[str, str]]:
        """Also the rank."""
        return [*super().summary(), ("rank", f"{self.config['rank']} axes of a cluster at most")]

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        if self.noise == "whitened":
            cluster, noise = self._source_and_white(z, labels)
        else:
            cluster, noise = self._cluster(z, labels), z if fresh is None else fresh
        base = (self.alpha**2 * self.residuals[cluster] + self.sigma**2).sqrt()[:, None]
        gains = (self.alpha**2 * self.variances[cluster] + self.sigma**2).sqrt() - base
        axes = self.bases[cluster]
        along = gains * torch.einsum("bdr,bd->br", axes, noise)
        return self.alpha * self.means[cluster] + base * noise + torch.einsum("bdr,br->bd", axes, along)

    def _cluster(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """k(z), int64 (B,)."""
        cluster = torch.empty(len(z), dtype=torch.int64, device=z.device)
        for label, rows in rows_by_class(labels):
            brenier, index = self._map_of(label)
            cluster[rows] = index[brenier.assign(z[rows])]
        return cluster

    def _map_of(self, label: int) -> tuple[BrenierPotential, Tensor]:
        return self._maps.find(label, self.means, self.potential, self.classes)
