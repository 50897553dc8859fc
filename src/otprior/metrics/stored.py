"""Features and reference statistics that were computed elsewhere, from .npz files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from otprior.metrics.frechet import FeatureMoments
from otprior.utils.numpy_files import load_numpy
from otprior.utils.validation import check_finite, require

SETS = ("samples", "reference", "atoms", "held_out")


def read_features(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Features of sets of images, each (n, D), in the order of the images: arrays named as in `SETS`.

    Returns:
        The name of the features (the array `name`, or the file's), and the sets that there are.

    Raises:
        ValueError: If the file is damaged, or an array is no matrix of finite numbers.
    """
    arrays = load_numpy(path, (*SETS, "name"), "--extractor")
    found = {
        name: _matrix(arrays[name], f"{name} of {path}") for name in SETS if arrays.get(name) is not None
    }
    rule = f"a file with arrays {', '.join(SETS)}"
    require("samples" in found, f"--extractor {path}", rule, sorted(arrays))
    name = arrays.get("name")
    return str(name) if name is not None and np.ndim(name) == 0 else path.stem, found


def read_moments(path: Path) -> FeatureMoments | None:
    """Mean and covariance of the features of reference images: arrays `mu` (D,) and `sigma` (D, D), as the usual tools
    for the FID keep them. None if the file holds no such arrays.

    Raises:
        ValueError: If the file is damaged, or sigma is no covariance.
    """
    arrays = load_numpy(path, ("mu", "sigma"), "--reference")
    if arrays.get("mu") is None or arrays.get("sigma") is None:
        return None
    mean, covariance = (_matrix(np.atleast_2d(arrays[k]), f"{k} of {path}").double() for k in ("mu", "sigma"))
    width = mean.shape[1]
    square = len(mean) == 1 and tuple(covariance.shape) == (width, width)
    got = f"{tuple(np.shape(arrays['mu']))} and {tuple(covariance.shape)}"
    require(square, f"mu and sigma of {path}", "of shapes (D,) and (D, D)", got)
    # (Stored in single precision they are symmetric up to its rounding.)
    gap = float((covariance - covariance.T).abs().max())
    symmetric = gap <= 1e-4 * float(covariance.abs().max())
    require(symmetric, f"sigma of {path}", "symmetric", f"a difference of {gap:.3g}")
    return FeatureMoments(mean[0], (covariance + covariance.T) / 2, None)


def check_stored(features: Mapping[str, Tensor], counts: Mapping[str, int], path: Path) -> None:
    """Requires features for each set of images, one row an image.

    Raises:
        ValueError: If there are others.
    """
    for name, count in counts.items():
        require(
            name in features,
            f"--extractor {path}",
            f"a file with features of the {name} images",
            list(features),
        )
        rows = len(features[name])
        require(rows == count, f"{name} of {path}", f"{count:,} rows, one an image", f"{rows:,}")


def _matrix(values: object, name: str) -> Tensor:
    array = np.asarray(values)
    right = array.ndim == 2 and array.dtype.kind == "f" and array.size > 0
    require(right, name, "a floating matrix", f"{array.dtype} of shape {array.shape}")
    tensor = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
    check_finite(name, tensor)
    return tensor
