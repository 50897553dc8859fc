"""Building a coupling: maps solved for, taken over from a prior or a solution, or read; and the checks of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprior.data.images import ImageSet, check_labels
from otprior.priors.coupling.maps import PairMaps
from otprior.priors.data import read_data
from otprior.priors.semidiscrete import SemiDiscretePrior
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.solution import Solution
from otprior.transport.solve import solve_semidiscrete
from otprior.utils.arrays import read_tensors, write_tensors
from otprior.utils.validation import as_numbers, check_number, require

FORMAT = "otprior coupling 1"
Built = tuple[ImageSet, PairMaps, float]  # the images with their labels, the maps, the upper limit of χ²


def solve_maps(
    images: ImageSet, count: int | None, weights: Tensor | None, solver: Mapping[str, Any], folder: Any
) -> Built:
    """Solves one map, or one for each of `count` classes; `folder` keeps the state of long solves."""
    atoms = images.images.flatten(1).contiguous()
    shares = torch.full((len(atoms),), 1 / len(atoms), dtype=torch.float64)
    if weights is not None:
        DiscreteMeasure.build(atoms, weights)  # which checks them
        shares = torch.as_tensor(weights).detach().double().cpu()
    classes = torch.zeros(len(atoms), dtype=torch.int64)
    if count is not None:
        assert images.labels is not None
        classes = images.labels.cpu()
    potential = torch.full((len(atoms),), float("-inf"), dtype=torch.float64)
    upper = 0.0
    for label in classes[shares > 0].unique().tolist():
        rows = torch.nonzero(classes == label).reshape(-1)
        own = shares[rows] / shares[rows].sum()
        measure = DiscreteMeasure.build(atoms if count is None else atoms[rows.to(atoms.device)], own)
        kept = None if folder is None else Path(folder) / f"map-{label}.safetensors"
        solution = solve_semidiscrete(measure, checkpoint=kept, **solver)
        potential[rows] = _of_first(solution)
        upper = max(upper, solution.chi2.upper)
    class_mass = (
        None if count is None else torch.zeros(count, dtype=torch.float64).index_add_(0, classes, shares)
    )
    device = atoms.device
    maps = PairMaps(atoms, potential.to(device), classes.to(device), class_mass, float(solver["entropy"]))
    return _labelled(images, None), maps, upper


def take_prior(prior: SemiDiscretePrior, data: Any, labels: Any, tol: float) -> Built:
    """The maps of a prior, with images from it or, if they are the same, from `data`."""
    require(isinstance(prior, SemiDiscretePrior), "prior", "a SemiDiscretePrior", type(prior).__name__)
    upper = _check_solved(prior.facts.get("chi2_upper"), tol)
    images = ImageSet(prior.atoms.reshape(-1, *prior.shape))
    if data is not None:
        given = read_images(data)
        _check_digest(given, prior.facts.get("sha256") or images.sha256)
        images = replace(images, labels=given.labels)
    by_class = prior.num_classes is not None
    require(
        not by_class or labels is None, "labels", "None with a prior by class, which has its own", "others"
    )
    mass = None
    if prior.num_classes is not None:
        labels = prior.classes
        mass = torch.bincount(labels.cpu(), minlength=prior.num_classes).double() / len(labels)
    axes = prior.axes if prior.axes.shape[1] else None
    maps = PairMaps(prior.atoms, prior.potential, prior.classes, mass, 0.0, axes)
    return _labelled(images, labels), maps, upper


def take_solution(solution: Solution, data: Any, labels: Any, tol: float) -> Built:
    """The map of a solution over `data`, if those are its atoms."""
    require(isinstance(solution, Solution), "solution", "a Solution", type(solution).__name__)
    source = solution.stats["source"]
    require(source == "normal", "solution", "a solve from N(0, I)", source)
    upper = _check_solved(solution.chi2.upper, tol)
    images = read_images(data)
    atoms, own = solution.measure.atoms, images.images.flatten(1)
    same = len(own) == len(solution.potential) and own.shape[1] == atoms.shape[1]
    if same:
        chosen = own[solution.measure.index.to(own.device)]
        same = torch.equal(chosen.to(atoms.device, atoms.dtype), atoms)
    require(same, "data", "the atoms that the map was solved for, in their order", "others")
    potential, classes = _of_first(solution).to(own.device), torch.zeros(len(own), dtype=torch.int64)
    maps = PairMaps(own, potential, classes.to(own.device), entropy=float(solution.stats["entropy"]))
    return _labelled(images, labels), maps, upper


def write_maps(path: str | Path, images: ImageSet, maps: PairMaps, upper: float) -> None:
    """Writes offsets, classes and a digest of the images to a .safetensors file."""
    tensors = {"potential": maps.potential, "classes": maps.classes}
    tensors |= {name: value for name in ("class_mass", "axes") if (value := getattr(maps, name)) is not None}
    numbers = {"entropy": repr(maps.entropy), "chi2_upper": repr(upper)}
    write_tensors(path, tensors, {"format": FORMAT, "images": images.sha256, **numbers})


def read_maps(path: str | Path, data: Any, labels: Any) -> Built:
    """Reads what `write_maps` wrote, for the same images."""
    tensors, header = read_tensors(path, "coupling", own=True)
    require(header.get("format") == FORMAT, f"coupling {path}", f"of format {FORMAT!r}", header.get("format"))
    images = read_images(data)
    _check_digest(images, header["images"])
    own, device = images.images.flatten(1), images.images.device
    mass, axes = tensors.get("class_mass"), tensors.get("axes")
    require(mass is None or labels is None, "labels", "None with a coupling by class", "others")
    potential, classes = (tensors[name].to(device) for name in ("potential", "classes"))
    axes = None if axes is None else axes.to(device)
    maps = PairMaps(own, potential, classes, mass, float(header["entropy"]), axes)
    return _labelled(images, labels if mass is None else classes), maps, float(header["chi2_upper"])


def read_images(data: Any) -> ImageSet:
    """Images with the labels that an `ImageSet` carries; floating-point values are taken as they are."""
    values = isinstance(data, Tensor | np.ndarray) and as_numbers("data", data).is_floating_point()
    images = read_data(data, value_range=None if values else "auto")[0]
    return replace(images, labels=data.labels) if isinstance(data, ImageSet) else images


def _labelled(images: ImageSet, labels: Any) -> ImageSet:
    """With labels, if any are given, on the images' device."""
    labels = images.labels if labels is None else check_labels(labels, len(images))
    return images if labels is None else replace(images, labels=labels.to(images.images.device))


def _of_first(solution: Solution) -> Tensor:
    """Offsets on the first of equal atoms, −∞ on the others: shares must not count an atom twice."""
    offsets = torch.full(solution.potential.shape, float("-inf"), dtype=torch.float64)
    index = solution.measure.index
    offsets[index] = solution.potential.cpu()[index]
    return offsets


def _check_solved(upper: float | None, tol: float) -> float:
    tol = check_number("tol", tol)
    rule = f"solved to an upper limit of χ² of {tol:g}"
    hint = "Solve further, or pass the tol that you accept: images then come up more or less often than they should"
    require(upper is not None and upper <= tol, "map", rule, upper, hint)
    assert upper is not None
    return float(upper)


def _check_digest(images: ImageSet, digest: str) -> None:
    rule = "the images that the map was solved for, by their digest"
    hint = "Floating-point values are taken as they are: give pixels of another range as `load_images` reads them"
    require(images.sha256 == digest, "data", rule, "others, or the same in another order or range", hint)
