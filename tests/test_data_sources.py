"""Every source of images gives the images that were put in; what would be read as something else is refused."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, TensorDataset

from otprior.data import ImageStream, check_images, load_images, open_images, to_uint8

LABELS = [0, 1, 1, 0, 2, 1]


@pytest.fixture
def colour() -> np.ndarray:
    """Six pictures, (6, H, W, 3)."""
    return np.random.default_rng(1).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)


def png(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", **options)
    return file.getvalue()


def write(folder: Path, colour: np.ndarray, names: list[str]) -> None:
    for name, pixels in zip(names, colour, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(pixels))


def same(found: Any, colour: np.ndarray) -> bool:
    return np.array_equal(to_uint8(found.images).transpose(0, 2, 3, 1), colour)


# Containers ---------------------------------------------------------------------------------------------------


def as_zip(path: Path, colour: np.ndarray) -> Any:
    with zipfile.ZipFile(path / "a.zip", "w") as archive:
        for k, pixels in enumerate(colour):
            archive.writestr(f"data/{k}.png", png(pixels))
        archive.writestr("__MACOSX/data/._0.png", b"no picture")
        rows = (json.dumps({"file_name": f"{k}.png", "label": LABELS[k]}) for k in range(6))
        archive.writestr("data/metadata.jsonl", "\n".join(rows))
    return path / "a.zip"


def as_edm(path: Path, colour: np.ndarray) -> Any:
    write(path / "edm", colour, [f"00000/img{k}.png" for k in range(6)])
    labels = [[f"00000/img{k}.png", LABELS[k]] for k in range(6)]
    (path / "edm" / "dataset.json").write_text(json.dumps({"labels": labels}))
    return path / "edm"


def as_shards(path: Path, colour: np.ndarray) -> Any:
    (path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(path / "shards" / f"{shard}.tar", "w") as archive:
            for k in range(3 * shard, 3 * shard + 3):
                parts = {"png": png(colour[k]), "cls": str(LABELS[k]).encode(), "txt": b"a caption"}
                for suffix, content in parts.items():
                    info = tarfile.TarInfo(f"./{k:04d}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return path / "shards"


def as_parquet(path: Path, colour: np.ndarray) -> Any:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [{"bytes": png(pixels), "path": None} for pixels in colour]
    parquet.write_table(pa.table({"image": images, "label": LABELS}), path / "a.parquet", row_group_size=4)
    return path / "a.parquet"


def hub_dataset(colour: np.ndarray) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    pictures = [Image.fromarray(pixels) for pixels in colour]
    return datasets.Dataset.from_dict({"image": pictures, "label": LABELS}, features=features)


def as_hub(path: Path, colour: np.ndarray) -> Any:
    return hub_dataset(colour)


def as_hub_stream(path: Path, colour: np.ndarray) -> Any:
    return hub_dataset(colour).to_iterable_dataset()


def as_saved_hub(path: Path, colour: np.ndarray) -> Any:
    hub_dataset(colour).save_to_disk(path / "saved")
    return path / "saved"


class Pairs(torch.utils.data.Dataset):
    """A map-style data set of pictures with labels, as torchvision's are."""

    def __init__(self, colour: np.ndarray) -> None:
        self.colour = colour

    def __len__(self) -> int:
        return len(self.colour)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        if row >= len(self):
            raise IndexError(row)
        return Image.fromarray(self.colour[row]), LABELS[row]


def as_torch(path: Path, colour: np.ndarray) -> Any:
    return Pairs(colour)


def as_loader(path: Path, colour: np.ndarray) -> Any:
    return DataLoader(
        TensorDataset(torch.from_numpy(colour).movedim(3, 1), torch.tensor(LABELS)), batch_size=4
    )


def as_dictionaries(path: Path, colour: np.ndarray) -> Any:
    return [{"jpg": png(pixels), "cls": label} for pixels, label in zip(colour, LABELS)]


def as_generator(path: Path, colour: np.ndarray) -> Any:
    return ((pixels, label) for pixels, label in zip(colour, LABELS))


CONTAINERS = [
    as_zip,
    as_edm,
    as_shards,
    as_parquet,
    as_hub,
    as_hub_stream,
    as_saved_hub,
    as_torch,
    as_loader,
    as_dictionaries,
    as_generator,
]


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_images_and_labels_put_in(
    tmp_path: Path, colour: np.ndarray, container: Callable[[Path, np.ndarray], Any]
) -> None:
    found = load_images(container(tmp_path, colour))
    assert same(found, colour)
    assert found.labels is not None
    assert found.labels.tolist() == LABELS


@pytest.mark.parametrize(
    "container", [c for c in CONTAINERS if c not in (as_loader, as_generator, as_hub_stream)]
)
def test_a_sample_reads_the_rows_that_an_image_set_would_draw(
    tmp_path: Path, colour: np.ndarray, container: Callable[[Path, np.ndarray], Any]
) -> None:
    stream = open_images(container(tmp_path, colour))
    few, expected = stream.sample(3, seed=4).read(), load_images(container_again(stream)).sample(3, seed=4)
    assert torch.equal(few.images, expected.images)
    assert few.labels is not None
    assert expected.labels is not None
    assert few.labels.tolist() == expected.labels.tolist()


def container_again(stream: ImageStream) -> Any:
    return stream.source


def test_a_stream_yields_what_is_read_at_once(tmp_path: Path, colour: np.ndarray) -> None:
    for container in (as_zip, as_hub_stream, as_generator):
        place = tmp_path / container.__name__
        place.mkdir()
        stream = open_images(container(place, colour))
        assert same(check_set(torch.cat(list(stream))), colour)
        assert stream.count == 6


def check_set(images: torch.Tensor) -> Any:
    from otprior.data import ImageSet

    return ImageSet(images)


def test_a_used_up_generator_is_not_read_as_empty(colour: np.ndarray) -> None:
    stream = open_images(as_generator(Path(), colour))
    list(stream)
    with pytest.raises(ValueError, match="used up"):
        list(stream)


def test_names_of_labels_are_kept_in_order(tmp_path: Path, colour: np.ndarray) -> None:
    assert load_images(as_hub(tmp_path, colour)).class_names == ("a", "b", "c")
    write(tmp_path / "f", colour, [f"{k}.png" for k in range(6)])
    rows = [{"file_name": f"{k}.png", "label": ["cat", "ant"][k % 2]} for k in range(6)]
    (tmp_path / "f" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = load_images(tmp_path / "f")
    assert found.class_names == ("ant", "cat")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 1, 0, 1, 0]


def test_a_whole_data_set_of_several_parts_is_refused(tmp_path: Path, colour: np.ndarray) -> None:
    datasets = pytest.importorskip("datasets")
    data = hub_dataset(colour)
    with pytest.raises(ValueError, match="train"):
        load_images(datasets.DatasetDict({"train": data, "test": data}))
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        data.to_parquet(tmp_path / name)
    with pytest.raises(ValueError, match="test and train"):
        load_images(tmp_path)


def test_items_without_an_image_are_named() -> None:
    with pytest.raises(ValueError, match="caption"):
        load_images([{"caption": "a cat"}])
    with pytest.raises(ValueError, match="yields images"):
        load_images(3.0)


# What a viewer shows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_read_upright(tmp_path: Path, colour: np.ndarray, orientation: int) -> None:
    image = Image.fromarray(colour[0])
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    assert same(load_images(tmp_path), shown[None])
    assert same(load_images([Image.open(tmp_path / "a.png")]), shown[None])


def sixteen_bit_rgb(path: Path) -> None:
    rows = b"".join(b"\0" + bytes(6 * 8) for _ in range(8))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def pages(path: Path) -> None:
    page = Image.new("L", (8, 8))
    page.save(path, save_all=True, append_images=[Image.new("L", (8, 8), 80 * k) for k in range(1, 3)])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.png", sixteen_bit_rgb, "8 bits a channel"),
        ("a.tif", lambda path: Image.new("I;16", (8, 8)).save(path), "8 bits a channel"),
        ("a.tif", pages, "one page or frame; got 3"),
        ("a.gif", pages, "one page or frame; got 3"),
        ("a.webp", pages, "one page or frame; got 3"),
        ("a.png", lambda path: Image.new("RGB", (8, 8)).save(path, transparency=(0, 0, 0)), "transparent"),
        (
            "a.png",
            lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"),
            "not an image",
        ),
        ("a.heic", lambda path: path.write_bytes(b"x"), "Convert them"),
        ("a.png", lambda path: path.symlink_to("nowhere"), "link to nothing"),
        ("a.png", os.mkfifo, "a pipe or device"),
    ],
)
def test_what_is_not_shown_as_it_would_be_read_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], Any], message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path)


@pytest.mark.parametrize("name", ["a.jfif", "a.avif", "a.jp2", "a.JPG", "a.webp", "a.tiff", "a.ppm"])
def test_formats_of_cameras_and_the_web_are_read(tmp_path: Path, name: str) -> None:
    format = {".jfif": "JPEG", ".JPG": "JPEG"}.get(Path(name).suffix)
    try:
        Image.new("RGB", (8, 8), (200, 10, 60)).save(tmp_path / name, format=format)
    except (KeyError, OSError, ValueError):
        pytest.skip("this Pillow does not write the format")
    # (Lossy formats move a flat colour by a level or two.)
    assert (
        load_images(tmp_path).images[0, :, 4, 4] - torch.tensor([200, 10, 60]) / 127.5 + 1
    ).abs().max() < 0.03


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otprior.data.pictures.MOST_PIXELS", 100)
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="at most 100 pixels"):
        load_images(tmp_path)


# Size, crop, colours --------------------------------------------------------------------------------------------


def test_resize_keeps_the_ratio_and_crop_takes_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, 10:30] = 255  # white is what a centred square shows
    write(tmp_path, pixels[None], ["a.png"])
    found = load_images(tmp_path, resize=10, crop=8)
    assert found.images.shape == (1, 3, 8, 8)
    assert float(found.images.min()) > 0.98  # Lanczos rings a little
    assert load_images(tmp_path, resize=10).images.shape == (1, 3, 10, 20)
    assert load_images(tmp_path, resize=(6, 5)).images.shape == (1, 3, 6, 5)
    with pytest.raises(ValueError, match="at least 30x30"):
        load_images(tmp_path, crop=30)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "P", "L", "1"])
def test_colours_are_converted_where_that_is_asked_for(tmp_path: Path, mode: str) -> None:
    name = "a.jpg" if mode == "CMYK" else "a.png"
    Image.new(mode, (8, 8), 0).save(tmp_path / name)
    found = load_images(tmp_path, convert="RGB").images
    assert found.shape == (1, 3, 8, 8)
    # What is wholly transparent shows the white below; CMYK without ink is white.
    assert float(found.mean()) == pytest.approx(1 if mode in ("RGBA", "LA", "CMYK") else -1, abs=0.02)


def test_sizes_may_be_numbers_of_numpy() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    assert load_images(grey, resize=np.int64(8)).images.shape == (3, 1, 8, 8)
    assert load_images(grey, resize=[8, 6]).images.shape == (3, 1, 8, 6)


def test_a_list_of_batches_is_as_long_as_they_are_together() -> None:
    batches = [np.full((2, 3, 8, 8), 90, np.uint8), np.full((1, 3, 8, 8), 70, np.uint8)]
    assert load_images(batches).images.shape == (3, 3, 8, 8)


@pytest.mark.parametrize(
    "labels", [np.array(3), np.zeros((3, 1), np.int64), np.array([0.5, 1, 2]), ["a", "b", "c"]]
)
def test_labels_of_a_file_are_looked_at_however_images_are_read(tmp_path: Path, labels: Any) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=grey, labels=labels)
    for reading in ({}, {"crop": 8}):
        with pytest.raises(ValueError, match=r"labels of .*data.npz must be"):
            load_images(tmp_path / "data.npz", **reading)


def test_arrays_are_resized_too_if_they_are_pictures() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    assert load_images(grey, resize=8).images.shape == (3, 1, 8, 8)
    with pytest.raises(ValueError, match="8-bit"):
        load_images(torch.rand(3, 1, 16, 16) * 2 - 1, resize=8)


def test_larger_pictures_are_adapted_with_a_warning(
    tmp_path: Path, colour: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, colour, [f"{k}.png" for k in range(6)])
    found = open_images(tmp_path, size=4, channels=3, adapt=True).read()
    assert found.images.shape == (6, 3, 4, 4)
    assert "6 of 6" in caplog.text
    with pytest.raises(ValueError, match="16x16; got 8x10"):
        open_images(tmp_path, size=16, channels=3, adapt=True).read()


# Labels by folder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/cat/0.png", "train/dog/1.png", "val/cat/2.png"], "train and val"),
        (["Train/0.png", "TEST/1.png", "2.png"], "TEST and Train"),
        (["1/0.png", "01/1.png", "2/2.png"], "01 and 1"),
    ],
)
def test_parts_of_a_data_set_and_double_labels_are_refused(
    tmp_path: Path, colour: np.ndarray, names: list[str], message: str
) -> None:
    write(tmp_path, colour[:3], names)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path)


def test_classes_are_found_below_a_folder_that_holds_all(tmp_path: Path, colour: np.ndarray) -> None:
    write(tmp_path, colour[:3], ["train/cat/0.png", "train/dog/1.png", "train/dog/2.png"])
    assert load_images(tmp_path).class_names == ("cat", "dog")


def test_a_file_of_labels_has_to_name_every_picture(tmp_path: Path, colour: np.ndarray) -> None:
    write(tmp_path, colour[:2], ["a.png", "b.png"])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "label": 0}')
    with pytest.raises(ValueError, match=r"b\.png"):
        load_images(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"metadata\.jsonl is damaged"):
        load_images(tmp_path)


# Links and what never ends ----------------------------------------------------------------------------------------


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path, colour: np.ndarray) -> None:
    write(tmp_path / "secret", colour[:1], ["s.png"])
    write(tmp_path / "data", colour[1:3], ["a.png", "b.png"])
    (tmp_path / "data" / "c.png").symlink_to(tmp_path / "data" / "a.png")
    assert len(load_images(tmp_path / "data")) == 3
    (tmp_path / "data" / "d.png").symlink_to(tmp_path / "secret" / "s.png")
    with pytest.raises(ValueError, match=r"d\.png must be a file of its folder"):
        load_images(tmp_path / "data")
    (tmp_path / "data" / "d.png").unlink()
    (tmp_path / "data" / "more").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="a link to one"):
        load_images(tmp_path / "data")


def test_links_into_the_hub_cache_are_files_of_their_folder(tmp_path: Path, colour: np.ndarray) -> None:
    write(tmp_path / "datasets--me--x" / "blobs", colour[:1], ["123"])
    folder = tmp_path / "datasets--me--x" / "snapshots" / "main"
    folder.mkdir(parents=True)
    (folder / "a.png").symlink_to("../../blobs/123")
    assert same(load_images(folder), colour[:1])


NO_LABELS: dict[str, Any] = {
    "of another number": np.arange(3),
    "infinite": np.full(8, np.inf),
    "halves": np.full(8, 0.5),
    "negative": np.full(8, -1),
}


@pytest.mark.parametrize("labels", NO_LABELS.values(), ids=NO_LABELS)
def test_labels_that_are_none_are_refused_by_a_stream_too(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((8, 1, 4, 4), np.uint8), labels=labels)
    for read in (load_images, lambda path: list(open_images(path).labelled())):
        with pytest.raises(ValueError, match="labels"):
            read(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.safetensors", "a.zip", "a.tar", "a.parquet", "a.csv"])
@pytest.mark.parametrize("device", [False, True])
def test_pipes_and_devices_are_no_data(tmp_path: Path, name: str, device: bool) -> None:
    path = tmp_path / name
    if device:
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    with pytest.raises(ValueError, match="must be a regular file"):
        load_images(path)


# Arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("order", ["<f4", ">f4", "<f8", ">f8", ">f2"])
def test_any_byte_order_is_read(tmp_path: Path, suffix: str, order: str) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (4, 1, 8, 8)).astype(np.float16).astype(order)
    path = tmp_path / f"a.{suffix}"
    np.save(path, values) if suffix == "npy" else np.savez(path, images=values)
    assert np.array_equal(load_images(path).images.numpy(), values.astype(np.float32))
    assert np.array_equal(check_images(values).numpy(), values.astype(np.float32))


def test_channels_are_found_first_or_last_and_doubt_is_refused(tmp_path: Path) -> None:
    last = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    assert check_images(last).shape == (5, 3, 8, 8)
    assert torch.equal(check_images(last), check_images(torch.from_numpy(last)))
    first = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 3), dtype=np.uint8)
    assert check_images(first).shape == (5, 3, 8, 3)  # as is documented for arrays in memory
    np.save(tmp_path / "a.npy", first)
    with pytest.raises(ValueError, match="without doubt"):
        load_images(tmp_path / "a.npy")
    latents = np.random.default_rng(0).normal(size=(5, 4, 8, 4))
    np.save(tmp_path / "b.npy", latents)
    assert load_images(tmp_path / "b.npy", channels=4, value_range=None).images.shape == (5, 4, 8, 4)


def test_a_mask_of_zero_and_one_is_asked_about() -> None:
    mask = (np.random.default_rng(0).random((6, 1, 8, 8)) > 0.5).astype(np.uint8)
    with pytest.raises(ValueError, match=r"value_range=\(0, 1\)"):
        check_images(mask)
    with pytest.raises(ValueError, match=r"value_range=\(0, 1\)"):
        list(open_images(list(mask)))
    assert np.array_equal(check_images(mask, value_range=(0, 1)).numpy(), 2.0 * mask - 1)
    digits = np.arange(17, dtype=np.uint8).reshape(17, 1, 1, 1)  # as scikit-learn has them
    with pytest.raises(ValueError, match="shades of black"):
        check_images(digits)
    assert np.allclose(check_images(digits, value_range=(0, 16)).numpy(), digits / 8.0 - 1)


def test_a_stream_on_the_unit_interval_is_asked_about() -> None:
    with pytest.raises(ValueError, match=r"value_range=\(0, 1\)"):
        list(open_images(list(torch.rand(6, 1, 4, 4))))


def header(shape: tuple[int, ...], descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * ((64 - (len(text) + 11) % 64) % 64) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + bytes(99)


def saved(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize(
    "member",
    [
        b"XXNUMPY",
        b"",
        header((4_000_000_000_000, 1, 8, 8)),
        header((10**30, 1, 8, 8)),
        saved(np.full((4, 1, 8, 8), "a")),
        saved(np.zeros((4, 1, 8, 8), "timedelta64[s]")),
        saved(np.zeros(40, [("a", "f4")])),
        saved(np.zeros((4, 1, 8, 8), "V4")),
        saved(np.zeros((4, 1, 8, 8), "c8")),
        saved(np.float32(1.0)),
    ],
)
def test_odd_members_of_an_npz_are_one_line(tmp_path: Path, member: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", member)
    with pytest.raises(ValueError, match=r"x\.npz"):
        load_images(tmp_path / "x.npz")


def test_an_archive_made_to_fill_memory_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otprior.utils.numpy_files.LARGEST_UNCHECKED", 1 << 20)
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((4000, 1, 32, 32), dtype=np.uint8))
    with pytest.raises(ValueError, match="packed to"):
        load_images(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1 << 22))
    with pytest.raises(ValueError, match="packed to"):
        load_images(tmp_path / "x.zip")
