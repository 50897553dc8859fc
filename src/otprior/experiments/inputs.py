"""What a study works with, found by name: images, the feature extractor, and what samples are compared with.

Everything is read once a process, however many studies ask for it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from otprior.data import bundled
from otprior.data.images import ImageSet, load_images
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.comparison import USUAL_ATOMS, Comparison
from otprior.experiments.sampling import Models
from otprior.metrics import FeatureMoments, Reference
from otprior.metrics.classes import class_moments
from otprior.metrics.features import FeatureExtractor, extract_features, load_extractor
from otprior.metrics.neighbours import nearest
from otprior.sampling.folders import component_folder, network_sha256, own_scheduler
from otprior.sampling.inputs import real_classes
from otprior.utils.files import folder_sha256, read_json
from otprior.utils.validation import require

# Pixels nearer than this (pixels in [-1, 1], Euclidean) are the same image; so many real images may be among the atoms:
# well-known data sets have a few of their test images among the training ones.
SAME_IMAGE, MOST_SAME = 0.01, 0.01


def check_floor(samples: int, held_out: int, otherwise: str = "") -> None:
    """For excess FIDs: the FID of as many held-out images as a row has samples is the floor of its own.

    Arguments:
        samples: Of a row.
        held_out: Held-out images.
        otherwise: What else can be done, for the error.

    Raises:
        ValueError: If there are not so many.
    """
    rule = f"at most {held_out:,}, the held-out images that give the floor{otherwise}"
    require(samples <= held_out, "samples", rule, samples)


def images_of(study: Comparison, name: str) -> ImageSet:
    """The images that a study calls `name`."""
    return _images(name, study.value_range)


def atoms_of(study: Comparison) -> ImageSet:
    """The images that the study's priors are fitted to."""
    return _atoms(study.atoms_from, study.value_range, study.atoms)


def copied_of(study: Comparison) -> ImageSet:
    """The images that the study's samples could be copies of."""
    return images_of(study, study.copies_of) if study.copies_of else atoms_of(study)


def extractor_of(study: Comparison) -> FeatureExtractor:
    """The study's feature extractor."""
    return _extractor(study.extractor)


def features_of(study: Comparison, name: str) -> Tensor:
    """Features of the images that a study calls `name`, shape (n, D)."""
    return _features(name, study.value_range, 0, study.extractor)


def reference_of(study: Comparison) -> Reference:
    """What the study's samples are compared with."""
    named, count = _copied_from(study)
    return _reference(study.split, study.real_split, named, count, study.extractor, study.value_range)


def check_not_atoms(study: Comparison, name: str) -> None:
    """That images are not the atoms (or those of `copies_of`): what is judged by them would be copies.

    Raises:
        ValueError: If more than 1 % of the images called `name` are.
    """
    named, count = _copied_from(study)
    _check_not_atoms(name, study.value_range, named, count)


def check_unseen(name: str, images: ImageSet, seen: ImageSet) -> None:
    """That images are not among those that priors are fitted to, or a network is trained on.

    Arguments:
        name: Of the images, for the error.
        images: What is judged by.
        seen: What starts or networks are made of.

    Raises:
        ValueError: If more than 1 % are, or if they are of another shape.
    """
    shape, others = tuple(seen.images.shape[1:]), tuple(images.images.shape[1:])
    require(others == shape, name, f"of the shape of those of {seen.name}, {shape}", others)
    same = nearest(images.images.flatten(1), seen.images.flatten(1))[0][:, 0] <= SAME_IMAGE
    rule = f"images that are not among those that starts or networks are made of ({seen.name})"
    came = f"{int(same.sum()):,} that are"
    require(float(same.double().mean()) <= MOST_SAME, name, rule, came)


def moments_by_class(study: Comparison) -> list[FeatureMoments]:
    """Of the features of the images that quality is measured against; they must be labelled."""
    return _class_moments(study.split, study.extractor, study.value_range)


def models_of(study: Comparison, priors: Path) -> Models:
    """The study's network, and where its fitted priors are."""
    if not study.model:
        return Models(
            pipeline=bundled.pipeline_path(),
            priors=priors,
            null_class_label=bundled.null_class_label(),
            precision=study.precision,
            classes=len(bundled.class_names()),
        )
    folder, null = Path(study.model), study.null_class_label
    by_class = any(row.conditional for row in study.sampled_rows)
    return Models(folder, priors, null, study.precision, _classes(folder, null) if by_class else None)


def _classes(folder: Path, null: int | None) -> int | None:
    """How many classes a network's folder says it has, besides the label for none; None if it takes no labels."""
    config = component_folder(folder, "unet") / "config.json"
    count = read_json(config).get("num_class_embeds") if config.is_file() else None
    if count is None:
        return None
    null = read_json(folder / "model_index.json").get("null_class_label") if null is None else null
    return real_classes(count, null)


def schedule_of(study: Comparison) -> NoiseSchedule:
    """The forward process of the study's network."""
    if not study.model:
        return NoiseSchedule.from_scheduler(bundled.load_scheduler())
    return NoiseSchedule.from_scheduler(own_scheduler(Path(study.model)))


def fingerprint(study: Comparison) -> dict[str, str]:
    """SHA-256 of all that the study works with and that is not bundled, by the field of `Comparison`."""
    images = {name: getattr(study, name) for name in ("split", "real_split", "atoms_from", "copies_of")}
    found = {
        field: images_of(study, name).sha256
        for field, name in images.items()
        if name and not _is_bundled(name)
    }
    if study.model:
        found["model"] = _network_digest(Path(study.model), "model_index.json")
    if study.extractor:
        found["extractor"] = _digest(study.extractor, "*")
    return found


_digest, _network_digest = cache(folder_sha256), cache(network_sha256)


def _copied_from(study: Comparison) -> tuple[str, int]:
    """What `copied_of` gives: its name and how many of them, 0 for all."""
    return (study.copies_of, 0) if study.copies_of else (study.atoms_from, study.atoms)


def _is_bundled(name: str) -> bool:
    return name == "atoms" or name in bundled.SPLITS


@cache
def _images(name: str, value_range: Any) -> ImageSet:
    if name == "atoms":
        return bundled.atoms()
    return bundled.split(name) if name in bundled.SPLITS else load_images(name, value_range=value_range)


@cache
def _atoms(name: str, value_range: Any, count: int) -> ImageSet:
    """`count` of the images, or all of them for 0; see `Comparison.atoms`."""
    images = _images(name, value_range)
    # (10,000 is what a study takes if nobody says how many.)
    rule = f"at most the {len(images):,} images that there are ({Path(name).name})"
    require(count <= max(len(images), USUAL_ATOMS), "atoms", rule, f"{count:,}")
    if _is_bundled(name) or count in (0, len(images)):
        return images.select(slice(count or None))
    return images.sample(count)


@cache
def _check_not_atoms(name: str, value_range: Any, atoms_from: str, count: int) -> None:
    """(Every search among starts asks, most of them about the same images.)"""
    check_unseen(f"images {name}", _images(name, value_range), _atoms(atoms_from, value_range, count))


@cache
def _extractor(folder: str) -> FeatureExtractor:
    return load_extractor(folder) if folder else bundled.extractor()


@cache
def _reference(
    split: str, real_split: str, atoms_from: str, count: int, extractor: str, value_range: Any
) -> Reference:
    return Reference.build(
        reference_features=_features(split, value_range, 0, extractor),
        atom_pixels=_atoms(atoms_from, value_range, count).images,
        atom_features=_features(atoms_from, value_range, count, extractor),
        held_out_pixels=_images(real_split, value_range).images,
        held_out_features=_features(real_split, value_range, 0, extractor),
    )


@cache
def _features(name: str, value_range: Any, count: int, extractor: str) -> Tensor:
    """Of the images that `_atoms` gives."""
    return extract_features(_extractor(extractor), _atoms(name, value_range, count).images)


@cache
def _class_moments(split: str, extractor: str, value_range: Any) -> list[FeatureMoments]:
    images = _images(split, value_range)
    require(images.labels is not None, f"images {split}", "labelled, for figures by class", "without labels")
    assert images.labels is not None
    return class_moments(_features(split, value_range, 0, extractor), images.labels)
