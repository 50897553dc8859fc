"""The sets of atoms that solvers are timed on. Each is the same wherever it is made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peers import Problem

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@dataclass(frozen=True)
class AtomSet:
    """A set: what it is, in a phrase, and how it is made from the folder of the Fashion-MNIST files."""

    name: str
    what: str
    build: Callable[[Path | None], tuple[np.ndarray, np.ndarray | None]]


def fashion_10k(source: Path | None) -> tuple[np.ndarray, None]:
    """The bundled atoms, pixels in [−1, 1]."""
    from otprior.data import bundled

    return bundled.atoms().images.reshape(-1, 28 * 28).numpy(), None


def fashion_60k(source: Path | None) -> tuple[np.ndarray, None]:
    """All training images, pixels in [−1, 1].

    Raises:
        FileNotFoundError: If the files are not there; says how to get them.
    """
    # Where the assets are built from, and only in a clone, like this benchmark.
    sys.path.insert(0, str(SCRIPTS))
    try:
        from fashion_mnist import DEFAULT_SOURCE, read_source
    finally:
        sys.path.remove(str(SCRIPTS))
    images = read_source(source or DEFAULT_SOURCE)["train"].images
    return images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1, None


def mixture(source: Path | None, count: int = 10_000, dim: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Atoms around 50 centres of unequal norms; weights log-uniform over 1000 : 1, whatever the atom."""
    generator = np.random.default_rng(20260101)
    centres = generator.standard_normal((50, dim)) * 10 ** -generator.random((50, 1)) * 2
    atoms = centres[generator.integers(50, size=count)] + 0.5 * generator.standard_normal((count, dim))
    weights = 10 ** (3 * generator.permutation(np.linspace(0, 1, count)))
    return atoms.astype(np.float32), weights / weights.sum()


def normal(dim: int) -> Callable[[Path | None], tuple[np.ndarray, None]]:
    """1,000 normal atoms, d = `dim`, uniform weights."""

    def build(source: Path | None) -> tuple[np.ndarray, None]:
        return np.random.default_rng(dim).standard_normal((1000, dim)).astype(np.float32), None

    return build


def photographs(side: int, count: int) -> Callable[[Path | None], tuple[np.ndarray, None]]:
    """`count` patches of `side` x `side` pixels from scikit-learn's two photographs, colours in [−1, 1].

    No two are the same: equal atoms have one cell, which no potential can share out between them.
    """

    def build(source: Path | None) -> tuple[np.ndarray, None]:
        from sklearn.datasets import load_sample_images

        images = load_sample_images().images
        generator = np.random.default_rng(side)
        patches: dict[bytes, np.ndarray] = {}
        while len(patches) < count:
            image = images[len(patches) % len(images)]
            row, column = (generator.integers(size - side + 1) for size in image.shape[:2])
            patch = np.ascontiguousarray(image[row : row + side, column : column + side])
            patches.setdefault(patch.tobytes(), patch)
        return np.stack([*patches.values()]).reshape(count, -1).astype(np.float32) / 127.5 - 1, None

    return build


def spectrum(
    power: float, count: int = 10_000, dim: int = 256
) -> Callable[[Path | None], tuple[np.ndarray, None]]:
    """Normal atoms whose k-th coordinate has the variance k^−`power`, like features of images."""

    def build(source: Path | None) -> tuple[np.ndarray, None]:
        deviations = np.arange(1, dim + 1) ** (-power / 2)
        atoms = np.random.default_rng(dim).standard_normal((count, dim)) * deviations
        return atoms.astype(np.float32), None

    return build


def effective_dimension(atoms: np.ndarray) -> float:
    """(Σ λ)²/Σ λ² of the eigenvalues λ of the atoms' covariance."""
    covariance = np.cov(atoms[: 1 << 14].T.astype(np.float64)).reshape(atoms.shape[1], -1)
    return float(np.trace(covariance) ** 2 / (covariance**2).sum())


SETS = {
    s.name: s
    for s in (
        AtomSet("fashion-10k", "10,000 training images of Fashion-MNIST, 28x28, unprojected", fashion_10k),
        AtomSet(
            "fashion-60k", "all 60,000 training images of Fashion-MNIST, 28x28, unprojected", fashion_60k
        ),
        AtomSet("mixture", "Gaussian mixture, unequal norms, weights 1000 : 1", mixture),
        *(
            AtomSet(
                f"photographs-{side}-{count // 1000}k",
                f"{count:,} patches of two photographs, {side}x{side}x3, unprojected",
                photographs(side, count),
            )
            for side in (16, 32)
            for count in (2_000, 10_000)
        ),
        AtomSet("spectrum-1", "normal atoms of variances 1/k, d = 256", spectrum(1)),
        AtomSet("spectrum-2", "normal atoms of variances 1/k², d = 256", spectrum(2)),
        AtomSet("plane", "normal atoms in the plane", normal(2)),
        AtomSet("line", "normal atoms on the line", normal(1)),
        AtomSet("rehearsal", "1,000 atoms made like `mixture`", lambda source: mixture(source, 1000)),
    )
}


def make(name: str, dtype: str, source: Path | None, folder: Path) -> Problem:
    """The problem of a set, also left in `folder` as atoms.npy and weights.npy, from where a run's process reads it."""
    atoms, weights = SETS[name].build(source)
    folder.mkdir(parents=True, exist_ok=True)
    problem = Problem(np.ascontiguousarray(atoms, dtype=dtype), weights)
    np.save(folder / "atoms.npy", problem.atoms)
    if weights is not None:
        np.save(folder / "weights.npy", weights)
    return problem


def read(folder: Path) -> Problem:
    """What `make` left in a folder."""
    weights = folder / "weights.npy"
    return Problem(np.load(folder / "atoms.npy"), np.load(weights) if weights.is_file() else None)
