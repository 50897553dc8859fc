"""What a comparison works with: its network, its images, and what samples are compared with.

Images, features and references are read or computed once a process, however many comparisons name the same.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otprior.data import bundled
from otprior.data.images import ImageSet, check_labels
from otprior.data.latents import encode_images, image_shape
from otprior.data.streams import open_images
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.comparison import BUNDLED, Comparison
from otprior.experiments.sampling import Models, class_turns
from otprior.metrics import FeatureMoments, Reference
from otprior.metrics.classes import class_moments
from otprior.metrics.extractors import Extractor, extractor_sha256, load_extractor
from otprior.metrics.features import class_logits, extract_features
from otprior.metrics.neighbours import nearest
from otprior.sampling.folders import (
    AUTOENCODERS,
    component_folder,
    find_pipeline,
    network_sha256,
    own_scheduler,
    read_index,
)
from otprior.sampling.inputs import real_classes
from otprior.sampling.stock import LatentSpace, is_stock, stock_latents
from otprior.utils.files import read_json
from otprior.utils.validation import require

# Pixels nearer than this (pixels in [-1, 1], Euclidean) are the same image; so many real images may be among the atoms:
# well-known data sets have a few of their test images among the training ones.
SAME_IMAGE, MOST_SAME = 0.01, 0.01


class Reading(NamedTuple):
    """How images are read.

    Attributes:
        value_range: Of floating-point pixels.
        shape: (C, H, W) of the network's images; None if it is not known.
        pictures: What is done to pictures; see `Comparison`.
    """

    value_range: Any
    shape: tuple[int, ...] | None
    pictures: tuple[tuple[str, Any], ...]


class Inputs:
    """The network, images and features that a comparison names.

    `Inputs.of` gives comparisons that name the same the same inputs. Everything is read when it is first asked for.

    Attributes:
        model: The network's diffusers folder.
        null_class_label: Its label for no class, if known.
        stock: Whether it is called as its own class, such as one with prompts.
    """

    def __init__(
        self,
        model: str,
        null_class_label: int | None,
        extractor: str,
        value_range: Any,
        split: str,
        real_split: str,
        atoms_from: str,
        atoms: int | None,
        copies_of: str | None,
        pictures: tuple[tuple[str, Any], ...],
        variant: str | None,
    ) -> None:
        own = model != BUNDLED
        self.model = find_pipeline(model, variant)
        self.null_class_label = null_class_label if own else bundled.null_class_label()
        if own and null_class_label is None:
            self.null_class_label = read_index(self.model).get("null_class_label")
        self._own_model, self._extractor = own, extractor
        self._variant = variant
        self.stock = own and is_stock(self.model)
        # (Those of pixels may lie beside the index, as in the first repositories; see `_picture_shape`.)
        latent = self.stock or (own and any((self.model / name).is_dir() for name in AUTOENCODERS))
        self._space = _latent_space(self.model, variant=variant) if latent else None
        shape = _picture_shape(self.model, self._space) if own else None
        self._reading = Reading(value_range, shape, pictures)
        self._split, self._real_split = split, real_split
        self._atoms = (atoms_from, atoms or 0)
        self._copied = self._atoms if copies_of is None else (copies_of, 0)

    @classmethod
    def of(cls, comparison: Comparison) -> Inputs:
        """The inputs that a comparison names."""
        return _inputs(
            comparison.model,
            comparison.null_class_label,
            comparison.extractor,
            comparison.value_range,
            comparison.split,
            comparison.real_split,
            comparison.atoms_from,
            comparison.atoms,
            comparison.copies_of,
            comparison.pictures,
            comparison.variant,
        )

    def images(self, name: str) -> ImageSet:
        """The images of a name, as `Comparison` names them."""
        return _images(name, self._reading, 0)

    @property
    def split(self) -> ImageSet:
        """The images that quality is measured against."""
        return self.images(self._split)

    @property
    def real(self) -> ImageSet:
        """The real images that give the floor."""
        return self.images(self._real_split)

    @property
    def atoms(self) -> ImageSet:
        """The images that priors are fitted to."""
        return _images(self._atoms[0], self._reading, self._atoms[1])

    @property
    def copied(self) -> ImageSet:
        """The images that samples could be copies of."""
        return _images(self._copied[0], self._reading, self._copied[1])

    def latents(self, images: ImageSet) -> ImageSet:
        """What priors are fitted to: the images, or their latents by the model's autoencoder."""
        if self._space is None or self._space.autoencoder is None:
            return images
        stream = encode_images(self._space.autoencoder, images.images, value_range=(-1.0, 1.0))
        return replace(images, images=stream.read().images)

    @cached_property
    def scheduler(self) -> Any:
        """The network's own scheduler."""
        return own_scheduler(self.model) if self._own_model else bundled.load_scheduler()

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The forward process of the network."""
        return NoiseSchedule.from_scheduler(self.scheduler)

    @property
    def extractor(self) -> Extractor:
        """The feature extractor."""
        return _extractor(self._extractor)

    @property
    def real_features(self) -> Tensor:
        """Features of the real images that give the floor, shape (n, D)."""
        return _features(self._extractor, self._reading, self._real_split, 0)

    @property
    def reference(self) -> Reference:
        """What samples are compared with."""
        return _reference(self._extractor, self._reading, self._split, self._real_split, *self._copied)

    @property
    def class_moments(self) -> list[FeatureMoments]:
        """Feature moments of each class of the images that quality is measured against.

        Raises:
            ValueError: If these have no labels.
        """
        return _class_moments(self._extractor, self._reading, self._split)

    @property
    def classes(self) -> int | None:
        """How many classes the network knows, besides the label for no class; None if it takes no labels."""
        if not self._own_model:
            return len(bundled.class_names())
        if self.stock and self._space is not None:
            return self._space.classes
        config = component_folder(self.model, "unet") / "config.json"
        count = read_json(config).get("num_class_embeds") if config.is_file() else None
        return real_classes(count, self.null_class_label)

    def models(
        self, priors: Path, precision: str = "float32", conditional: bool = True, device: str = "cpu"
    ) -> Models:
        """The network, told no prompts, and where its priors are; classes are looked up only if they are needed."""
        null, count = self.null_class_label, self.classes if conditional or self.stock else None
        classes = () if count is None else class_turns(count, self.atoms.labels if conditional else None)
        shape = tuple(self.latents(self.atoms.select(slice(1))).images.shape[1:]) if self.stock else None
        return Models(self.model, priors, null, precision, classes, (), None, shape, device, self._variant)

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of all that is not bundled, by the field of `Comparison` that names it."""
        names = {
            "split": self._split,
            "real_split": self._real_split,
            "atoms_from": self._atoms[0],
            "copies_of": self._copied[0],
        }
        found = {field: self.images(name).sha256 for field, name in names.items() if not _is_bundled(name)}
        if self._own_model:
            further = () if self._space is None else ("*/*",)
            found["model"] = _network_digest(self.model, "model_index.json", *further)
        if self._extractor != BUNDLED:
            found["extractor"] = _digest(self._extractor)
        return found

    def check_by_class(self) -> None:
        """Refuses starts by class unless network, atoms and the images to judge by have the same classes.

        Raises:
            ValueError: If the number of the network's classes is not known or not the classifier's, if images have no
                labels or others, or if a class has too few images.
        """
        count = self.classes
        rule = "one whose config tells how many class labels it takes, for starts by class"
        require(count is not None, f"model {self.model}", rule, "none")
        assert count is not None
        self._check_labels(self._atoms[0], self.atoms, count, 1)
        if not hasattr(self.extractor, "logits"):
            return  # (without a classifier there are no figures by class)
        known = class_logits(self.extractor, self.split.images[:1]).shape[1]
        rule = f"a classifier of the network's {count} classes, or none, for starts by class"
        require(known == count, f"extractor {self.extractor.name}", rule, f"one of {known} classes")
        for name, images in ((self._split, self.split), (self._real_split, self.real)):
            self._check_labels(name, images, count, 2)  # (a covariance takes two)

    def _check_labels(self, name: str, images: ImageSet, classes: int, least: int) -> None:
        """Requires labels, and at least so many images of each class."""
        rule = "labelled, for starts by class"
        require(images.labels is not None, f"images {name}", rule, "without labels")
        assert images.labels is not None
        check_labels(images.labels, len(images), classes, f"labels of {name}")
        sizes = torch.bincount(images.labels, minlength=classes)
        fewest = int(sizes.argmin())
        rule = f"at least {least} of each of the network's {classes} classes, for starts by class"
        is_null = fewest == classes - 1 and self.null_class_label is None
        hint = f"If {fewest} is the network's label for no class, give null_class_label" if is_null else ""
        got = f"{int(sizes[fewest])} of class {fewest}"
        require(int(sizes[fewest]) >= least, f"images {name}", rule, got, hint)

    def check_not_atoms(self, name: str) -> None:
        """Refuses images to be judged by if samples could be copies of them.

        Raises:
            ValueError: If more than 1 % of the images of this name are among those that could be copied.
        """
        _check_not_atoms(name, self._reading, *self._copied)

    def check_disjoint(self, split: str, real_split: str) -> None:
        """Refuses sets of images that overlap: those of `check_not_atoms`, and these two.

        Raises:
            ValueError: If more than 1 % of the images of one are in another. (The bundled sets are disjoint.)
        """
        for name in (split, real_split):
            if not (_is_bundled(name) and _is_bundled(self._copied[0])):
                self.check_not_atoms(name)
        if not (_is_bundled(split) and _is_bundled(real_split)):
            quality, floor = (_images(name, self._reading, 0) for name in (split, real_split))
            check_unseen(f"images {real_split}", floor, quality, "those that quality is measured against")


def check_floor(samples: int, held_out: int, otherwise: str = "") -> None:
    """Refuses more samples of a start than there are held-out images, whose FID at equal n is the floor.

    Arguments:
        samples: Images of a start.
        held_out: Number of held-out images.
        otherwise: What else can be done, for the error.

    Raises:
        ValueError: If there are too few held-out images.
    """
    rule = f"at most {held_out:,}, the held-out images that give the floor{otherwise}"
    require(samples <= held_out, "samples", rule, samples)


def check_unseen(
    name: str, images: ImageSet, seen: ImageSet, what: str = "those that starts or networks are made of"
) -> None:
    """Refuses images to be judged by that are among those that priors are fitted to, or a network is trained on.

    Arguments:
        name: What the error calls the images.
        images: What is judged by.
        seen: What starts or networks are made of.
        what: What the error calls these.

    Raises:
        ValueError: If more than 1 % are, or if they are of another shape.
    """
    shape, others = tuple(seen.images.shape[1:]), tuple(images.images.shape[1:])
    require(others == shape, name, f"of the shape of those of {seen.name}, {shape}", others)
    same = nearest(images.images.flatten(1), seen.images.flatten(1))[0][:, 0] <= SAME_IMAGE
    rule = f"images that are not among {what} ({seen.name})"
    came = f"{int(same.sum()):,} that are"
    require(float(same.double().mean()) <= MOST_SAME, name, rule, came)


_digest, _network_digest = cache(extractor_sha256), cache(network_sha256)
_latent_space = cache(stock_latents)


def _is_bundled(name: str) -> bool:
    return name == "atoms" or name in bundled.SPLITS


@cache
def _inputs(*named: Any) -> Inputs:
    return Inputs(*named)


@cache
def _images(name: str, reading: Reading, count: int) -> ImageSet:
    """`count` of the images, all of them for 0; see `Comparison.atoms`."""
    if count:
        images = _images(name, reading, 0)
        require(
            count <= len(images), "atoms", f"at most the {len(images):,} images that there are", f"{count:,}"
        )
        if _is_bundled(name) or count == len(images):
            return images.select(slice(count))
        return images.sample(count)
    if name == "atoms":
        return bundled.atoms()
    return bundled.split(name) if name in bundled.SPLITS else _read(name, reading)


def _read(name: str, reading: Reading) -> ImageSet:
    """The images at a path; larger pictures are brought to the network's size."""
    wanted = dict(reading.pictures)
    if reading.shape is not None:
        channels, height, width = reading.shape
        wanted |= {"size": (height, width), "channels": channels}
    return open_images(name, value_range=reading.value_range, **wanted).read()


def _picture_shape(pipeline: Path, space: LatentSpace | None) -> tuple[int, ...] | None:
    """(C, H, W) of the images of a pipeline's folder, if its configs say so."""
    if space is not None:
        coded = space.autoencoder is not None and space.shape is not None
        return image_shape(space.autoencoder, *space.shape[1:]) if coded else space.shape  # type: ignore[index]
    config = component_folder(pipeline, "unet") / "config.json"
    if not config.is_file():
        return None
    channels, size = map(read_json(config).get, ("in_channels", "sample_size"))
    if channels is None or size is None:
        return None
    return (channels, *(size if isinstance(size, list) else (size, size)))


@cache
def _check_not_atoms(name: str, reading: Reading, copied: str, count: int) -> None:
    """The check of `Inputs.check_not_atoms`: searches ask it again and again about the same images."""
    check_unseen(f"images {name}", _images(name, reading, 0), _images(copied, reading, count))


@cache
def _extractor(folder: str) -> Extractor:
    return bundled.extractor() if folder == BUNDLED else load_extractor(folder)


@cache
def _features(extractor: str, reading: Reading, name: str, count: int) -> Tensor:
    return extract_features(_extractor(extractor), _images(name, reading, count).images)


@cache
def _reference(
    extractor: str, reading: Reading, split: str, real_split: str, copied: str, count: int
) -> Reference:
    """The reference of all networks that are judged by these images."""
    return Reference.build(
        reference_features=_features(extractor, reading, split, 0),
        atom_pixels=_images(copied, reading, count).images,
        atom_features=_features(extractor, reading, copied, count),
        held_out_pixels=_images(real_split, reading, 0).images,
        held_out_features=_features(extractor, reading, real_split, 0),
    )


@cache
def _class_moments(extractor: str, reading: Reading, split: str) -> list[FeatureMoments]:
    labels, rule = _images(split, reading, 0).labels, "labelled, for figures by class"
    require(labels is not None, f"images {split}", rule, "without labels")
    assert labels is not None
    return class_moments(_features(extractor, reading, split, 0), labels)
