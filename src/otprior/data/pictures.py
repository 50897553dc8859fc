"""Pictures: an encoded image file becomes 8-bit pixels as a viewer shows them, or one line says why not.

Files may come from strangers. They are opened as one of `FORMATS` only, whatever their names say (Pillow knows others,
some of which start programs), and not beyond `MOST_PIXELS`. What would be read as something else than is shown is
refused: several pages or frames, 16 bits a channel, transparency, colour models other than grey and RGB. EXIF
orientation is applied. `Preparation` says what may be changed: size, crop, colours.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from otprior.utils.validation import check_choice, check_integer, invalid, require

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"} | {
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".avif",
    ".jp2",
    ".j2k",
    ".jpx",
}
# Pictures as well, which are not read: left out in silence they would be missed.
OTHER_SUFFIXES = {
    ".heic",
    ".heif",
    ".jxl",
    ".svg",
    ".eps",
    ".ps",
    ".psd",
    ".tga",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
} | {".raf", ".exr", ".hdr", ".ico", ".pcx", ".dcm", ".apng"}
# Pillow's own limit for an error, which a process may have switched off.
MOST_PIXELS = 178_956_970

Size = int | tuple[int, int]


@dataclass(frozen=True)
class Preparation:
    """What is done to pictures before they are used; by default nothing.

    Attributes:
        resize: Length of the shorter side in pixels (the ratio is kept), or (height, width). Lanczos, antialiased.
        crop: Side of the square that is cut from the centre, after resizing, or (height, width).
        convert: "RGB" or "L" (grey); transparent pictures are laid on white. None only takes grey or RGB.
        target: (C, H, W) of a network. Where no option above says otherwise, larger pictures are resized by their
            shorter side and cut in the centre to H x W, and grey becomes RGB if C = 3; nothing is enlarged.

    Raises:
        ValueError: If a value is not allowed.
    """

    resize: Size | None = None
    crop: Size | None = None
    convert: str | None = None
    target: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for name, value in (("resize", self.resize), ("crop", self.crop)):
            if value is None:
                continue
            sides = tuple(value) if isinstance(value, tuple | list) else (value,)
            require(len(sides) in (1, 2), name, "a length, or (height, width)", value)
            for side in sides:
                check_integer(name, side, 1, 1 << 14)
            # (Numbers of NumPy are none of Python's.)
            plain = tuple(int(side) for side in sides)
            object.__setattr__(self, name, plain if len(plain) == 2 else plain[0])
        if self.convert is not None:
            check_choice("convert", self.convert, ("RGB", "L"))

    @property
    def changes(self) -> bool:
        """Whether an option is set, `target` aside."""
        return (self.resize, self.crop, self.convert) != (None, None, None)

    def apply(self, image: Image.Image, where: str) -> np.ndarray:
        """uint8 (C, H, W) of an upright 8-bit picture.

        Arguments:
            image: As `opened` yields it.
            where: What an error calls it.

        Raises:
            ValueError: If it is of another kind and no conversion is asked for, or smaller than its crop.
        """
        from PIL import Image as pil

        image = self._colours(image, where)
        if self.resize is not None:
            size = _covering(image, self.resize) if isinstance(self.resize, int) else self.resize[::-1]
            image = image.resize(size, pil.Resampling.LANCZOS)
        crop = self.crop
        if self.target is not None and self.resize is None and self.crop is None:
            crop = _sides(self.target[1:])
            if image.height < crop[0] or image.width < crop[1]:
                crop = None  # what needs them says what size they must have
            elif (image.height, image.width) != crop:
                image = image.resize(_covering(image, crop), pil.Resampling.LANCZOS)
        if crop is not None:
            image = _cropped(image, _sides(crop), where)
        pixels = np.asarray(image, dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _colours(self, image: Image.Image, where: str) -> Image.Image:
        from PIL import Image as pil

        clear = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
        known = ("L", "RGB", "1", "P")
        if self.convert is None:
            rule = "8-bit grey or RGB without transparency"
            got = f"an image of mode {image.mode}" + (" with a transparent colour" if clear else "")
            require(image.mode in known and not clear, where, rule, got, 'Pass convert="RGB" or "L"')
            wanted = {"1": "L", "P": "RGB"}.get(image.mode, image.mode)
            if self.target is not None and self.target[0] == 3:
                wanted = "RGB"
            return image if image.mode == wanted else image.convert(wanted)
        rule = "of 8 bits a channel"
        modes = (*known, "RGBA", "LA", "PA", "La", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")
        require(image.mode in modes, where, rule, f"an image of mode {image.mode}")
        if clear:
            image = image.convert("RGBA")
            image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
        return image.convert(self.convert)


@contextmanager
def opened(source: bytes | BinaryIO | Path, where: str) -> Iterator[Image.Image]:
    """Yields a picture, decoded and upright.

    Arguments:
        source: The file's content, a binary file, or a path.
        where: What an error calls it.

    Raises:
        ValueError: If it is damaged, of no allowed format, too large, or not what a viewer shows.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    pil.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pil.DecompressionBombWarning)
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            image: Any = pil.open(file, formats=[name for name in FORMATS if name in pil.OPEN])
            with image:
                _check_kind(image, where)
                image.load()
                upright = ImageOps.exif_transpose(image)
    except (ValueError, MemoryError) as error:
        if isinstance(error, ValueError) and str(error).startswith(where):
            raise
        raise ValueError(f"{where} is damaged or not an image: {error}") from error
    except Exception as error:
        # (What decoders raise for a damaged file depends on the format.)
        raise ValueError(f"{where} is damaged or not an image: {error}") from error
    yield upright


def as_picture(pixels: np.ndarray) -> Image.Image:
    """A picture of uint8 pixels (C, H, W), C = 1 or 3."""
    from PIL import Image as pil

    return pil.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def _check_kind(image: Any, where: str) -> None:
    rule = f"of at most {MOST_PIXELS:,} pixels"
    require(image.width * image.height <= MOST_PIXELS, where, rule, f"{image.width} x {image.height}")
    # (The further frames of an MPO file are a phone's previews and depths; viewers show the first.)
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    require(frames == 1, where, "of one page or frame", f"{frames}", "Write each into a file of its own")
    # Of 16 bits a channel Pillow keeps the upper 8: 12-bit values would be nearly black.
    layouts = [str(tile[3][0] if isinstance(tile[3], tuple) else tile[3]) for tile in image.tile if tile[3]]
    deep = any(layout.split(";")[-1].startswith("16") for layout in layouts) or image.mode.startswith("I")
    if deep:
        raise invalid(
            where, "of 8 bits a channel", f"an image of mode {image.mode} with 16", "Scale it first"
        )


def _sides(size: Size | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _covering(image: Image.Image, size: Size) -> tuple[int, int]:
    """(width, height) of the picture's ratio that just cover a height and width."""
    height, width = _sides(size)
    scale = max(height / image.height, width / image.width)
    return max(round(image.width * scale), width), max(round(image.height * scale), height)


def _cropped(image: Image.Image, size: tuple[int, int], where: str) -> Image.Image:
    height, width = size
    fits = image.height >= height and image.width >= width
    require(fits, where, f"at least {height}x{width}, to be cropped", f"{image.height}x{image.width}")
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
