"""Images in and out: every accepted form gives the same tensor, every other form is refused by name."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from otprior import GaussianPrior, MixturePrior, SemiDiscretePrior
from otprior.data.images import ImageSet, check_images, check_labels, to_pixels, to_uint8
from otprior.data.samples import SampleWriter, read_samples
from otprior.data.streams import load_images
from otprior.diffusion import NoiseSchedule
from otprior.utils.files import write_json


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)


@pytest.fixture
def colour() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)


def write_folder(folder, images, names) -> None:
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)


# The pixel rule.


def test_all_256_grey_levels_survive_a_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    pixels = to_pixels(levels)
    assert pixels.dtype == torch.float32
    assert pixels.min() == -1
    assert pixels.max() == 1
    assert np.array_equal(to_uint8(pixels), levels)


@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_a_stated_range_maps_linearly_to_minus_one_and_one(low, width):
    high = low + width
    values = torch.linspace(0, 1, 5, dtype=torch.float64) * width + low
    expected = torch.linspace(-1, 1, 5)
    # float32 holds values near 100 to 6e-6, divided by the half-width.
    error = (to_pixels(values, (low, high)) - expected).abs().max()
    assert error <= 1e-6 + 4e-5 * max(1.0, abs(low)) / width


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_on_the_right_range_pass_through_in_float32(dtype):
    values = torch.linspace(-1, 1, 9).to(dtype)
    assert torch.equal(to_pixels(values), values.float())


def test_input_is_never_changed():
    values = torch.linspace(-1, 1, 9)
    kept = values.clone()
    to_pixels(values, (-2, 2)).zero_()
    to_uint8(values)
    assert torch.equal(values, kept)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.rand(4, 1, 2, 2), r"value_range=\(0, 1\)"),
        (torch.full((4, 1, 2, 2), 1.5), r"in \[-1, 1\]; got values in \[1.5, 1.5\]"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.int64), "uint8 or floating; got torch.int64"),
        (torch.zeros(0, 1, 2, 2), "not empty"),
    ],
)
def test_a_range_or_type_that_looks_wrong_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        check_images(values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("value_range", ["auto", (-1, 1), None])
def test_nan_and_infinity_are_refused_under_every_rule_and_the_row_is_named(bad, value_range):
    images = torch.full((5, 1, 2, 2), -0.5)
    images[3, 0, 1, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 5 rows, first in row 3"):
        check_images(images, value_range=value_range)


def test_unit_range_is_accepted_when_said_either_way():
    values = torch.rand(4, 1, 2, 2)
    assert torch.equal(to_pixels(values, (-1, 1)), values)
    assert torch.allclose(to_pixels(values, (0, 1)), 2 * values - 1)


def test_latents_are_taken_as_they_are():
    latents = 7 * torch.randn(4, 4, 2, 2)
    assert torch.equal(check_images(latents, value_range=None), latents)


@pytest.mark.parametrize("value_range", [(1, 0), (0, 1, 2), "unit", 1.0, ("a", "b")])
def test_a_malformed_range_is_refused(value_range):
    with pytest.raises(ValueError, match="value_range must be"):
        to_pixels(torch.zeros(3), value_range)


# Shapes and labels.


def test_three_axes_mean_one_channel(grey):
    assert check_images(grey).shape == (6, 1, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 16}, "16x16; got 8x8"),
        ({"size": (8, 9)}, "8x9; got 8x8"),
        ({"channels": 3}, r"3 channel\(s\); got 1"),
    ],
)
def test_another_size_or_channel_count_is_refused_not_resized(grey, options, message):
    with pytest.raises(ValueError, match=message):
        check_images(grey, **options)


def test_two_axes_are_refused():
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        check_images(torch.zeros(4, 784))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 10], r"in \[0, 9\]; got 10 in row 2"),
        ([0, -1, 3], r"got -1 in row 1"),
        ([0, 1], r"shape \(3,\)"),
        ([0.0, 1.0, 2.0], "integers; got float64"),
        ([True, False, True], "integers; got bool"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels, 3, 10)


def test_labels_that_would_take_all_memory_are_refused() -> None:
    """A prior keeps something for each class up to the highest label."""
    images, schedule = torch.zeros(4, 1, 4, 4, dtype=torch.uint8), NoiseSchedule.flow(1000)
    for kind in (GaussianPrior, SemiDiscretePrior, MixturePrior):
        with pytest.raises(ValueError, match=r"labels must be in \[0, 999999\]; got 1000000000000 in row 3"):
            kind.fit(images, schedule, labels=[0, 0, 1, 10**12])
        with pytest.raises(ValueError, match="num_classes"):
            kind.fit(images, schedule, labels=[0, 0, 1, 1], num_classes=10**12)


@pytest.mark.parametrize("convert", [list, np.array, torch.tensor, lambda x: np.array(x, dtype=np.uint8)])
def test_labels_become_int64(convert):
    labels = check_labels(convert([3, 0, 9]), 3, 10)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3, 0, 9]


# Files.


def test_every_format_gives_the_same_images(tmp_path, colour):
    labels = np.arange(6) % 3
    np.savez(tmp_path / "a.npz", images=colour, labels=labels)
    np.savez_compressed(tmp_path / "b.npz", images=colour.transpose(0, 3, 1, 2), labels=labels)
    np.savez(tmp_path / "c.npz", colour, labels)  # arr_0, arr_1
    np.save(tmp_path / "d.npy", colour)
    channel_first = torch.from_numpy(colour.transpose(0, 3, 1, 2).copy())
    save_file({"images": channel_first, "labels": torch.from_numpy(labels)}, tmp_path / "e.safetensors")
    np.savez(tmp_path / "f.npz", images=colour.astype(np.float32) / 255)
    write_folder(tmp_path / "g", colour, [f"{i}/x{i}.png" for i in range(6)])
    sets = [
        load_images(tmp_path / name) for name in ("a.npz", "b.npz", "c.npz", "d.npy", "e.safetensors", "g")
    ]
    for images in sets:
        assert images.images.shape == (6, 3, 8, 10)
        assert images.sha256 == sets[0].sha256
    assert all(sets[i].labels.tolist() == labels.tolist() for i in (0, 1, 2, 4))
    assert sets[3].labels is None
    unit = load_images(tmp_path / "f.npz", value_range=(0, 1))
    assert torch.allclose(unit.images, sets[0].images, atol=1e-6)


def test_channels_settles_an_ambiguous_layout(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 4, 2, 3)).astype(np.float32)
    np.save(tmp_path / "latents.npy", values)
    latents = load_images(tmp_path / "latents.npy", channels=4, value_range=None)
    assert np.array_equal(latents.images.numpy(), values)
    assert load_images(tmp_path / "latents.npy", value_range=None).images.shape == (5, 4, 2, 3)
    last = load_images(tmp_path / "latents.npy", channels=3, value_range=None)
    assert last.images.shape == (5, 3, 4, 2)
    with pytest.raises(ValueError, match="without doubt"):
        load_images(tmp_path / "latents.npy")


def test_subfolders_name_the_classes(tmp_path, grey):
    write_folder(
        tmp_path / "d", grey, ["dog/1.png", "cat/1.png", "cat/2.png", "ant/a/9.png", "dog/2.png", "ant/0.png"]
    )
    data = load_images(tmp_path / "d")
    assert data.class_names == ("ant", "cat", "dog")
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(to_uint8(data.images)[:, 0], grey[[5, 3, 1, 2, 0, 4]])


def test_numeric_subfolders_are_the_labels_themselves(tmp_path, grey):
    write_folder(tmp_path / "d", grey, [f"{label}/x.png" for label in (10, 2, 3, 7, 5, 6)])
    data = load_images(tmp_path / "d")
    assert sorted(data.labels.tolist()) == [2, 3, 5, 6, 7, 10]
    assert np.array_equal(to_uint8(data.images)[data.labels.tolist().index(10), 0], grey[0])
    with pytest.raises(ValueError, match="got 10 in row 0"):
        load_images(tmp_path / "d", num_classes=10)


@pytest.mark.parametrize("names", [[f"{i}.png" for i in range(6)], [f"images/{i}.png" for i in range(6)]])
def test_a_flat_folder_or_a_single_subfolder_has_no_labels(tmp_path, grey, names):
    write_folder(tmp_path / "d", grey, names)
    assert load_images(tmp_path / "d").labels is None


def test_hidden_files_are_not_data(tmp_path, grey):
    write_folder(tmp_path / "d", grey, ["a.png", ".b.png", ".cache/c.png", "d.png", "._e.png", "f.PNG"])
    assert np.array_equal(to_uint8(load_images(tmp_path / "d").images)[:, 0], grey[[0, 3, 5]])


def test_given_labels_replace_those_of_the_file(tmp_path, grey):
    np.savez(tmp_path / "a.npz", images=grey, labels=np.zeros(6, dtype=int))
    assert load_images(tmp_path / "a.npz", labels=[5, 4, 3, 2, 1, 0]).labels.tolist() == [5, 4, 3, 2, 1, 0]


def test_provenance_is_kept_and_the_digest_depends_on_pixels_and_shape(tmp_path, grey):
    np.savez(tmp_path / "a.npz", images=grey)
    data = load_images(tmp_path / "a.npz", license="CC0-1.0")
    assert data.license == "CC0-1.0"
    assert data.source.endswith("a.npz")
    assert len(data) == 6
    other = data.images.clone()
    other[0, 0, 0, 0] = -other[0, 0, 0, 0] - 0.1
    assert ImageSet(other).sha256 != data.sha256
    assert ImageSet(data.images.reshape(6, 1, 4, 16)).sha256 != data.sha256
    assert data.select(slice(2, 4)).license == "CC0-1.0"


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_images(tmp_path / "absent")


class Payload:
    """Unpickling this would create the file `self.path`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["object.npy", "object.npz", "pickle.npy"])
def test_pickles_are_never_loaded(tmp_path, kind):
    trap, path = tmp_path / "trap", tmp_path / kind
    array = np.array([Payload(trap)], dtype=object)
    if kind == "object.npy":
        np.save(path, array, allow_pickle=True)
    elif kind == "object.npz":
        np.savez(path, images=array)
    else:
        path.write_bytes(pickle.dumps(array))
    with pytest.raises(ValueError, match=f"{kind} is damaged or holds Python objects"):
        load_images(path)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.safetensors", "d"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_damaged_files_are_named(tmp_path, grey, name, damage):
    np.savez_compressed(tmp_path / "a.npz", images=grey)
    np.save(tmp_path / "a.npy", grey)
    save_file({"images": torch.from_numpy(grey)}, tmp_path / "a.safetensors")
    write_folder(tmp_path / "d", grey, [f"{i}.png" for i in range(6)])
    file = tmp_path / "d" / "3.png" if name == "d" else tmp_path / name
    content = file.read_bytes()
    # A fixed prefix that is no pickle, no zip, no image and, read as a header length, far too long.
    file.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"\xff" * 300}[damage]
    )
    with pytest.raises(ValueError, match=f"{file.name}.* is damaged"):
        load_images(tmp_path / name)


def test_a_compressed_file_with_flipped_bytes_is_named(tmp_path, grey):
    np.savez_compressed(tmp_path / "a.npz", images=grey)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200:220] = bytes(20)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz is damaged"):
        load_images(tmp_path / "a.npz")


def test_files_without_images_say_what_they_hold(tmp_path, grey):
    np.savez(tmp_path / "a.npz", pictures=grey)
    with pytest.raises(ValueError, match=r"named 'images'; got \['pictures'\]"):
        load_images(tmp_path / "a.npz")
    save_file({"x": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"named 'images'; got \['x'\]"):
        load_images(tmp_path / "a.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="which has none"):
        load_images(tmp_path / "empty")
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"\.npz, \.npy, \.safetensors"):
        load_images(tmp_path / "data.csv")


def test_a_folder_of_mixed_sizes_or_kinds_is_refused(tmp_path, grey, colour):
    write_folder(tmp_path / "sizes", [grey[0], grey[1][:4]], ["a.png", "b.png"])
    with pytest.raises(ValueError, match=r"a\.png is 8x8 with 1 channel\(s\), .*b\.png is 4x8"):
        load_images(tmp_path / "sizes")
    write_folder(tmp_path / "kinds", [grey[0], colour[0][:, :8]], ["a.png", "b.png"])
    with pytest.raises(ValueError, match=r"b\.png is 8x8 with 3 channel\(s\)"):
        load_images(tmp_path / "kinds")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "CMYK"])
def test_transparency_and_other_modes_are_refused(tmp_path, mode):
    name = "a.jpg" if mode == "CMYK" else "a.png"
    Image.new(mode, (8, 8)).save(tmp_path / name)
    with pytest.raises(ValueError, match=f"an image of mode {mode}"):
        load_images(tmp_path)


def test_palette_and_bilevel_images_are_read(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "b").mkdir()
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    red.quantize(2).save(tmp_path / "p" / "a.png")
    Image.new("1", (4, 4), 1).save(tmp_path / "b" / "a.png")
    assert load_images(tmp_path / "p").images[0, :, 0, 0].tolist() == [1, -1, -1]
    assert load_images(tmp_path / "b", value_range=(0, 255)).images.unique().tolist() == [1]


# Writing.


def test_writing_clips_and_does_not_wrap_around():
    assert to_uint8(torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.7])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("png", [True, False])
def test_a_sample_folder_is_read_with_its_labels(tmp_path, png, as_float):
    if png and as_float:
        pytest.skip("PNG holds 8 bits")
    images = torch.linspace(-1.2, 1.2, 3 * 16).reshape(3, 1, 4, 4)
    writer = SampleWriter(tmp_path, [3, 4, 9], png=png, as_float=as_float)
    writer.add(images, torch.tensor([7, 0, 7]))
    writer.finish([2, 0, 1])
    write_json(tmp_path / "report.json", {"settings": {"pixels": "float32" if as_float else "uint8"}})
    # A contact sheet is no sample.
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(tmp_path / "grid.png")

    found = load_images(tmp_path)
    assert found.labels is not None
    assert found.labels.tolist() == [2, 0, 1]
    clipped = images.clamp(-1, 1)
    assert (found.images - clipped).abs().max() <= (0 if as_float else 1 / 127.5)
    if as_float:
        assert torch.equal(load_images(tmp_path, value_range=None).images, images)


@pytest.mark.parametrize("report", [3, [1], {"rows": 3}, {"rows": [3]}, {"settings": 3}])
def test_a_report_of_another_form_beside_samples_is_named(tmp_path, report):
    writer = SampleWriter(tmp_path, [0, 1], png=True, as_float=False)
    writer.add(torch.zeros(2, 1, 4, 4), None)
    writer.finish(None)
    write_json(tmp_path / "report.json", report)
    with pytest.raises(ValueError, match=r"report.json must be"):
        read_samples(tmp_path)


def test_a_damaged_sample_folder_is_named(tmp_path):
    writer = SampleWriter(tmp_path, [0, 1], png=True, as_float=False)
    writer.add(torch.zeros(2, 1, 4, 4), None)
    writer.finish(None)
    next((tmp_path / "images").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"seeds of .*starts.npz must be 1; got 2"):
        load_images(tmp_path)
    np.savez(tmp_path / "starts.npz", sources=[0])
    with pytest.raises(ValueError, match=r"seeds of .*starts.npz must be a row of integers"):
        load_images(tmp_path)
    np.savez(tmp_path / "starts.npz", seeds=[0], sources=[np.inf])
    with pytest.raises(ValueError, match=r"sources of .*starts.npz must be a row of integers"):
        load_images(tmp_path)
    (tmp_path / "starts.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"starts.npz is damaged"):
        load_images(tmp_path)
