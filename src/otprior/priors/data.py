"""What `fit` of every prior begins with: its arguments checked, its images by class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprior.data.images import MOST_CLASSES, ImageSet, check_images, check_labels, to_pixels
from otprior.data.streams import ImageStream, open_images
from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.validation import check_integer, require


def as_schedule(schedule: Any) -> NoiseSchedule:
    """A `NoiseSchedule`, from one or from a diffusers scheduler.

    Examples:
        >>> as_schedule(scheduler).kind
        'vp'
    """
    return schedule if isinstance(schedule, NoiseSchedule) else NoiseSchedule.from_scheduler(schedule)


def read_data(
    data: Any, labels: Any = None, value_range: Any = "auto", num_classes: int | None = None
) -> tuple[ImageSet, int | None]:
    """Reads and checks the images that a prior is fitted to.

    Labels are an argument of their own: an `ImageSet` that happens to be labelled makes no prior conditional.

    Arguments:
        data: An `ImageSet`, or whatever `otprior.data.load_images` takes: (N, C, H, W) as uint8, or as floats in
            `value_range`; a path; a data set; an iterable. With `value_range=None` arrays have any shape (N, ...), such
            as (N, C, L) of sounds or (N, C, F, H, W) of films.
        labels: Class labels, (N,), or None.
        value_range: See `otprior.data.images.check_images`; None for latents.
        num_classes: Number of classes; by default the largest label + 1.

    Returns:
        The images in [-1, 1], with the labels, and the number of classes (None without labels).

    Raises:
        ValueError: On NaN, a wrong shape or range, labels that do not fit, or `num_classes` without labels.

    Examples:
        >>> read, classes = read_data(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
        >>> read.images.min(), classes
        (tensor(-1.), None)
    """
    images = stream_data(data, value_range)
    if isinstance(images, ImageStream):
        images = images.read()
    images = replace(images, images=images.images.detach())
    if labels is None:
        require(num_classes is None, "num_classes", "left out without labels", num_classes)
        return replace(images, labels=None, class_names=None), None
    if num_classes is not None:
        check_integer("num_classes", num_classes, 1, MOST_CLASSES)
    values = check_labels(labels, len(images), num_classes).cpu()
    count = num_classes if num_classes is not None else int(values.max()) + 1
    return replace(images, labels=values), count


def stream_data(data: Any, value_range: Any = "auto") -> ImageSet | ImageStream:
    """The same images, not read yet if they are not in memory: a stream yields blocks (B, C, H, W).

    Raises:
        ValueError: If `data` is nothing that images can be read from.
    """
    if isinstance(data, ImageSet | ImageStream):
        rule = 'left at "auto" with images that have been opened, whose pixels are in [-1, 1] already'
        require(value_range in ("auto", None), "value_range", rule, value_range)
        return data
    if isinstance(data, Tensor | np.ndarray):
        # Latents have any shape: (N, C, L) is a sound of C channels, no image of one.
        latents = value_range is None
        require(not latents or data.ndim >= 2, "data", "of shape (N, ...)", tuple(data.shape))
        return ImageSet(to_pixels(data, None) if latents else check_images(data, value_range=value_range))
    return open_images(data, value_range=value_range)


def images_by_class(images: ImageSet, num_classes: int | None) -> Iterator[tuple[int, Tensor]]:
    """Pairs (class, its images as flat rows), of two or more each; all images as class 0 without labels.

    Raises:
        ValueError: Before the first pair, if any class has fewer than two images.
    """
    flat = images.images.flatten(1)
    sizes = [len(flat)]
    if images.labels is not None:
        sizes = torch.bincount(images.labels, minlength=num_classes or 0).tolist()
    for label, size in enumerate(sizes):
        require(size >= 2, "data", f"at least two images for class {label}", size)
    for label in range(len(sizes)):
        yield label, flat if images.labels is None else flat[(images.labels == label).to(flat.device)]


def rows_by_class(labels: Tensor | None) -> list[tuple[int, Tensor | slice]]:
    """Pairs (class, its rows) of a batch; all rows as class 0 without labels."""
    if labels is None:
        return [(0, slice(None))]
    return [(label, torch.nonzero(labels == label).reshape(-1)) for label in labels.unique().tolist()]
