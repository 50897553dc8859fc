"""All metrics at once: a set of samples in, every figure of a report's row out, with its interval.

Quality (features against the reference images) and copying (pixels and features against the atoms) are
computed together, so that neither is shown alone. Compute the floor of every figure by the same call on equally
many held-out real images.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprior.metrics._rows import as_rows, check_same_width
from otprior.metrics.copying import Atoms, below_quantile, copy_mask, copy_power, duplicate_rate, source_mask
from otprior.metrics.frechet import FeatureMoments, frechet_distance
from otprior.metrics.intervals import block_interval, bootstrap_mean
from otprior.metrics.kernel import KernelSample, kernel_distance
from otprior.metrics.neighbours import nearest, neighbourhood_terms
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import require

logger = logging.getLogger(__name__)

_NEIGHBOURS = 5
_BLOCKS = 10
# Variance of features, as a share of their squared mean, below which they are all the same.
SAME_FEATURES = 1e-10


@dataclass(frozen=True, eq=False)
class Reference:
    """The images that samples are compared with; build it once with `Reference.build`.

    Arguments:
        features: Of the real reference images, shape (M, D), float32; None where only their moments are known.
        moments: Their mean and covariance.
        kernel: Their own term of the kernel distance; None without features.
        atoms: The training images that a sample could have been copied from.
        atom_features: Features of all given atoms, shape (N, D), float32.
        held_out_pixel_distances: From held-out real images to their nearest atom, in pixels, shape (H,).
        held_out_feature_distances: The same in features, shape (H,).
        copy_power: Share of planted copies that count as copies.

    Examples:
        >>> extractor, atoms = load_extractor(bundled.ROOT / "classifier"), images.images[:60]
        >>> features = extract_features(extractor, atoms)
        >>> Reference.build(features, atoms, features, atoms, features).moments.n
        60
    """

    features: Tensor | None
    moments: FeatureMoments
    kernel: KernelSample | None
    atoms: Atoms
    atom_features: Tensor
    held_out_pixel_distances: Tensor
    held_out_feature_distances: Tensor
    copy_power: float

    @classmethod
    @plain_torch()
    def build(
        cls,
        reference_features: Tensor | FeatureMoments,
        atom_pixels: Tensor,
        atom_features: Tensor,
        held_out_pixels: Tensor,
        held_out_features: Tensor,
    ) -> Reference:
        """Checks the sets against one another and finds the held-out images' nearest atoms.

        Arguments:
            reference_features: Of real images that quality is measured against, shape (M, D); or their moments, which
                give an FID alone.
            atom_pixels: Images behind the prior, shape (N, C, H, W) or (N, P), in [-1, 1].
            atom_features: Their features, shape (N, D).
            held_out_pixels: Real images that are neither atoms nor reference, shape (H, C, H, W) or (H, P).
            held_out_features: Their features, shape (H, D).

        Raises:
            ValueError: If sets are malformed or do not fit one another, if fewer than two atoms differ, or if all
                reference images have the same features.
        """
        if isinstance(reference_features, FeatureMoments):
            features, moments = None, reference_features
        else:
            features = as_rows("reference_features", reference_features, minimum=_NEIGHBOURS + 1)
            moments = FeatureMoments.from_features(features)
        rule = "different for different images"
        # (Up to what float32 resolves: rounding differs from batch to batch.)
        spread = float(moments.covariance.trace()) / max(float(moments.mean.square().sum()), 1e-30)
        require(spread > SAME_FEATURES, "features", rule, "the same for all reference images")
        atom_features = as_rows("atom_features", atom_features)
        held_features = as_rows("held_out_features", held_out_features)
        held_pixels = as_rows("held_out_pixels", held_out_pixels)
        for name, rows in (("atom_features", atom_features), ("held_out_features", held_features)):
            _check_width(name, rows, moments)
        atoms = Atoms.build(atom_pixels)
        check_same_width("held_out_pixels", held_pixels, "atom_pixels", atoms.images)
        count, merged = len(atoms.representative), len(atoms.representative) - len(atoms.images)
        require(
            len(atom_features) == count, "atom_features", f"{count} rows, one an atom", len(atom_features)
        )
        rule = f"{len(held_pixels)} rows, one an image"
        require(len(held_features) == len(held_pixels), "held_out_features", rule, len(held_features))
        require(len(atoms.images) >= 2, "atom_pixels", "two different images at least", len(atoms.images))
        if merged:
            logger.info("%d of %d atoms equal an earlier one and are merged for the copy rate", merged, count)
        return cls(
            features=features,
            moments=moments,
            kernel=None if features is None else KernelSample.from_features(features),
            atoms=atoms,
            atom_features=atom_features,
            held_out_pixel_distances=atoms.nearest(held_pixels, 1)[0][:, 0],
            held_out_feature_distances=nearest(held_features, atom_features)[0][:, 0],
            copy_power=copy_power(atoms),
        )


@plain_torch()
def evaluate(
    features: Tensor,
    pixels: Tensor,
    *,
    reference: Reference,
    generator: torch.Generator,
    sources: Tensor | None = None,
) -> dict[str, Any]:
    """All figures of one set of samples, ready for a report (floats, lists and None).

    Arguments:
        features: Of the samples, shape (n, D), by the same extractor as the reference's.
        pixels: The samples, shape (n, C, H, W) or (n, P), on the atoms' scale; n >= 6.
        reference: What to compare with.
        generator: Draws resamples and blocks, on the CPU.
        sources: Index of the atom behind each start, shape (n,), for starts that were built on one.

    Returns:
        A dict with
        - fid, kid, precision, recall, density, coverage: in features, against the reference images; all but the first
          None where only moments of these are known;
        - copy_rate, source_rate (None without `sources`), duplicate_rate: shares, in pixels;
        - nearest_pixel_distance, nearest_feature_distance: mean distance to the nearest atom;
        - nearest_pixel_below_1pct, nearest_feature_below_1pct: share of samples nearer to an atom than the
          1 % quantile of held-out real images;
        - `<name>_interval`: 95 % limits [lo, hi] over other seeds, with reference, atoms and prior fixed. From 10
          disjoint blocks for fid and kid (`block_interval`), else from `bootstrap_mean`.
          None for recall, coverage and duplicate_rate, which depend on all samples at once and on their
          number: sets of seeds give those an interval.

    Raises:
        ValueError: If the inputs are malformed or do not fit the reference.

    Examples:
        >>> evaluate(features, pixels, reference=reference, generator=generator)["copy_rate"]
    """
    features = as_rows("features", features, minimum=_NEIGHBOURS + 1)
    pixels = as_rows("pixels", pixels)
    _check_width("features", features, reference.moments)
    check_same_width("pixels", pixels, "the reference's atoms", reference.atoms.images)
    rule = f"{len(features)} rows, one a row of features"
    require(len(pixels) == len(features), "pixels", rule, len(pixels))
    figures = _distances(features, reference, generator)
    neighbourhood: dict[str, Tensor] = {}
    if reference.features is not None:
        neighbourhood = neighbourhood_terms(reference.features, features, _NEIGHBOURS)
    for name in ("recall", "coverage"):
        figures[name] = float(neighbourhood[name].mean()) if neighbourhood else None
        figures[f"{name}_interval"] = None
    figures |= {"duplicate_rate": duplicate_rate(pixels), "duplicate_rate_interval": None}
    # Masks stay boolean, by which `bootstrap_mean` knows a proportion.
    terms: dict[str, Tensor | None] = {"precision": None, "density": None}
    if neighbourhood:
        terms = {"precision": neighbourhood["precision"] > 0.0, "density": neighbourhood["density"]}
    for name, values in (terms | _copying_terms(features, pixels, reference, sources)).items():
        interval = None if values is None else bootstrap_mean(values, generator)
        figures[name] = None if interval is None else interval.estimate
        figures[f"{name}_interval"] = None if interval is None else interval.limits()
    return figures


def _distances(features: Tensor, reference: Reference, generator: torch.Generator) -> dict[str, Any]:
    """Fréchet and kernel distance with their intervals."""
    blocks = min(_BLOCKS, len(features) // 2)
    fid = block_interval(lambda rows: frechet_distance(rows, reference.moments), features, generator, blocks)
    kernel = reference.kernel
    kid = None
    if kernel is not None:
        kid = block_interval(lambda rows: kernel_distance(rows, kernel), features, generator, blocks)
    return {
        "fid": fid.estimate,
        # A distance is never negative; an unbiased estimate, such as the kernel distance, may be.
        "fid_interval": [max(fid.lo, 0.0), fid.hi],
        "kid": None if kid is None else kid.estimate,
        "kid_interval": None if kid is None else kid.limits(),
    }


def _check_width(name: str, rows: Tensor, moments: FeatureMoments) -> None:
    rule = f"as wide as the reference's features ({len(moments.mean)} columns)"
    require(rows.shape[1] == len(moments.mean), name, rule, rows.shape[1])


def _copying_terms(
    features: Tensor, pixels: Tensor, reference: Reference, sources: Tensor | None
) -> dict[str, Tensor | None]:
    """The terms, one a sample, whose means are the figures of copying."""
    pixel_distances, _, near = reference.atoms.nearest_and_twins(pixels, 2)
    feature_distances = nearest(features, reference.atom_features)[0][:, 0]
    return {
        "copy_rate": copy_mask(pixel_distances),
        "source_rate": None if sources is None else source_mask(near, sources, reference.atoms),
        "nearest_pixel_distance": pixel_distances[:, 0],
        "nearest_feature_distance": feature_distances,
        "nearest_pixel_below_1pct": below_quantile(pixel_distances[:, 0], reference.held_out_pixel_distances),
        "nearest_feature_below_1pct": below_quantile(feature_distances, reference.held_out_feature_distances),
    }
