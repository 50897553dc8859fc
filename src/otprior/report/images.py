"""Image grids: contact sheets, and starts side by side with each sample's nearest training image.

Images are float tensors (n, C, H, W) in [-1, 1] with C = 1 (grey) or 3 (colour); they are drawn without
smoothing, so that what is seen are the model's own pixels.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from otprior.data.images import to_uint8
from otprior.utils.text import printable
from otprior.utils.validation import check_finite, check_integer, require

_PAPER, _INK, _MUTED, _MARK = (255, 255, 255), (32, 33, 36), (110, 112, 118), (200, 60, 0)


@dataclass(frozen=True, eq=False)
class ReportImages:
    """Samples of one row for the image grid, the same seeds in every row.

    Arguments:
        label: The row's name beside its images.
        images: Samples, shape (n, C, H, W), in [-1, 1].
        nearest: Each sample's nearest training image, same shape, or None.
        copied: Which samples count as copies, shape (n,), bool; they are marked. None marks none.
        seeds: The seeds, for the heading of each column.
        note: A few words below the label, such as "t* = 500 · DPM++2M · 5 NFE".

    Raises:
        ValueError: If images are not (n, C, H, W), or others are not as many.

    Examples:
        >>> ReportImages("mixture", images.images[:4], seeds=range(4)).label
        'mixture'
    """

    label: str
    images: Tensor
    nearest: Tensor | None = None
    copied: Tensor | None = None
    seeds: Sequence[int] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        _check_images("images", self.images)
        if self.nearest is not None:
            shape = tuple(self.images.shape)
            require(
                tuple(self.nearest.shape) == shape, "nearest", f"of shape {shape}", tuple(self.nearest.shape)
            )
            _check_images("nearest", self.nearest)
        count = len(self.images)
        for name, value in (("copied", self.copied), ("seeds", self.seeds)):
            require(value is None or len(value) == count, name, f"of length {count}", value)


def to_pil(image: Tensor) -> Image.Image:
    """One image (C, H, W) in [-1, 1], clipped, as 8-bit grey or RGB."""
    levels = to_uint8(image)
    return Image.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0)))


def contact_sheet(images: Tensor, columns: int = 10, gap: int = 2, scale: int = 1) -> Image.Image:
    """All images in reading order on one white sheet.

    Arguments:
        images: Shape (N, C, H, W), in [-1, 1].
        columns: Images a line; fewer where N is smaller.
        gap: White pixels between images.
        scale: Whole number of times each pixel is repeated.

    Raises:
        ValueError: If there are no images, they are not grey or RGB, or a value is not finite.

    Examples:
        >>> contact_sheet(images.images[:8], columns=4).size
        (118, 58)
    """
    _check_images("images", images)
    for name, value, least in (("columns", columns, 1), ("gap", gap, 0), ("scale", scale, 1)):
        check_integer(name, value, least)
    columns = min(columns, len(images))
    lines = -(-len(images) // columns)
    height, width = (scale * side for side in images.shape[2:])
    mode, white = ("L", 255) if images.shape[1] == 1 else ("RGB", (255, 255, 255))
    sheet = Image.new(mode, (columns * (width + gap) - gap, lines * (height + gap) - gap), white)
    for index, image in enumerate(images):
        place = (index % columns * (width + gap), index // columns * (height + gap))
        sheet.paste(to_pil(image).resize((width, height), Image.Resampling.NEAREST), place)
    return sheet


def image_grid(rows: Sequence[ReportImages], tile: int = 64) -> bytes:
    """Rows of samples under one another, the nearest training images below each, as PNG.

    Arguments:
        rows: What to draw, in this order.
        tile: Side of an image on the sheet, in pixels; the larger side of images that are not square.

    Raises:
        ValueError: If there is no row, or the tile is below 16.

    Examples:
        >>> image_grid([ReportImages("mixture", images.images[:4])])[1:4]
        b'PNG'
    """
    require(len(rows) > 0, "rows", "at least one", "none")
    check_integer("tile", tile, 16)
    font, small = _font(15), _font(12)
    label_width, gap, margin = 210, 4, 20
    columns = max(len(row.images) for row in rows)
    header = 24 if rows[0].seeds is not None else 0
    heights = [tile * (1 if row.nearest is None else 2) + (0 if row.nearest is None else gap) for row in rows]
    width = 2 * margin + label_width + columns * (tile + gap) - gap
    between = 18
    sheet = Image.new("RGB", (width, 2 * margin + header + sum(heights) + between * (len(rows) - 1)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    left = margin + label_width
    for column, seed in enumerate(rows[0].seeds or ()):
        place = (left + column * (tile + gap) + tile // 2, margin + 4)
        draw.text(place, f"{seed}", font=small, fill=_MUTED, anchor="mt")
    if header:
        draw.text((left - 12, margin + 4), "seed", font=small, fill=_MUTED, anchor="rt")
    top = margin + header
    for row, height in zip(rows, heights):
        text = "\n".join(textwrap.wrap(printable(row.label), 24))
        draw.multiline_text((margin, top), text, font=font, fill=_INK)
        below = draw.multiline_textbbox((margin, top), text, font=font)[3] + 4
        draw.multiline_text(
            (margin, below), "\n".join(textwrap.wrap(printable(row.note), 30)), font=small, fill=_MUTED
        )
        if row.nearest is not None:
            place = (left - 12, top + tile + gap + tile // 2)
            draw.text(place, "nearest\ntraining image", font=small, fill=_MUTED, anchor="rm", align="right")
        for column in range(len(row.images)):
            x = left + column * (tile + gap)
            sheet.paste(_fit(row.images[column], tile), (x, top))
            if row.copied is not None and bool(row.copied[column]):
                draw.rectangle((x - 2, top - 2, x + tile + 1, top + height + 1), outline=_MARK, width=2)
            if row.nearest is not None:
                sheet.paste(_fit(row.nearest[column], tile), (x, top + tile + gap))
        top += height + between
    return _png(sheet)


def data_uri(image: Tensor, largest: int = 96) -> str:
    """One image (C, H, W) as a `data:` address, reduced so that no side exceeds `largest` pixels."""
    picture = to_pil(image)
    if max(picture.size) > largest:
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return "data:image/png;base64," + base64.b64encode(_png(picture)).decode("ascii")


def _check_images(name: str, images: Tensor) -> None:
    right = images.ndim == 4 and len(images) > 0 and images.shape[1] in (1, 3) and images.is_floating_point()
    came = f"{images.dtype} of shape {tuple(images.shape)}"
    require(right, name, "float of shape (n, C, H, W) with n >= 1 and C = 1 or 3", came)
    check_finite(name, images)


def _fit(image: Tensor, tile: int) -> Image.Image:
    """An image in RGB scaled to fit a square tile: whole pixels repeated, or reduced smoothly."""
    picture = to_pil(image).convert("RGB")
    factor = tile / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib ships this one; Pillow's own lacks Greek letters.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
