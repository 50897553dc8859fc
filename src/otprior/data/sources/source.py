"""What a source of images is: it hands out one image after another, with its label."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# Names under which data sets keep pictures and their classes, the likeliest first.
IMAGE_KEYS = ("image", "images", "img", "pixel_values", "pixels", "jpg", "jpeg", "png", "webp")
LABEL_KEYS = ("label", "labels", "cls", "class", "class_label", "class_labels", "fine_label", "target")


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        image: A picture as bytes, as a path or of Pillow; or pixels, an array or tensor (C, H, W), (H, W) or (H, W, C).
        label: Its class, by number or name; None if it has none.
        where: What errors call it.
    """

    image: Any
    label: int | str | None = None
    where: str = "an image"


class Source:
    """Images of one file, folder or object; subclasses implement `items`.

    Attributes:
        name: What reports call the images.
        path: Where they come from, or None.
        class_names: One name a label, where they are known beforehand.
        count: How many there are; None if that is only known at the end.
    """

    name: str = "images"
    path: str | None = None
    class_names: tuple[str, ...] | None = None
    count: int | None = None

    def items(self, rows: Collection[int] | None = None) -> Iterator[Item]:
        """The images in order; only those whose numbers are in `rows`, if given, and the others are not decoded.

        Raises:
            ValueError: If something is damaged.
        """
        raise NotImplementedError

    def whole(self, channels: int | None, latents: bool) -> tuple[Tensor, Any] | None:
        """All images and their labels, where they are one array (N, C, H, W) or (N, H, W) already; None by default.

        Arguments:
            channels: Number of channels C, to tell (N, C, H, W) from (N, H, W, C).
            latents: Whether values are taken as they are.
        """
        return None
