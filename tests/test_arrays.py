"""Files of arrays and tensors: what comes back is what was written, or one line that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from otprior.utils.arrays import read_arrays, read_tensors, write_arrays, write_tensors
from otprior.utils.files import read_json

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "none": torch.zeros(0, 3)}


def test_tensors_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"what": "a test"})
    tensors, header = read_tensors(path)
    assert header["what"] == "a test"
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }
    assert os.listdir(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize("what", ["value", "dtype", "name", "header", "no digest"])
def test_tensors_that_were_changed_are_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"what": "a test"})
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = dict(TENSORS)
    if what == "value":
        tensors["a"] = TENSORS["a"].clone()
        tensors["a"][1, 2] += 1e-5
    elif what == "dtype":
        tensors["a"] = TENSORS["a"].int()
    elif what == "name":
        tensors["c"] = tensors.pop("a")
    elif what == "header":
        header["what"] = "another"
    else:
        del header["sha256"]
        assert set(read_tensors(path)[1]) == {"what", "sha256"}
    save_file(tensors, path, metadata=header)
    with pytest.raises(ValueError, match=r"^state .*x\.safetensors must be (as it|a file that otprior) w"):
        read_tensors(path, "state", own=True)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100, b"\x08" + bytes(7) + b"{}      "])
@pytest.mark.parametrize("read", [read_tensors, read_arrays, read_json])
def test_a_damaged_file_is_named(tmp_path: Path, read: object, content: bytes) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(content)
    if read is read_tensors and content.endswith(b"{}      "):
        assert read_tensors(path) == ({}, {})  # (it is an empty one)
        return
    with pytest.raises(ValueError, match=r"damaged is damaged") as caught:
        read(path)  # type: ignore[operator]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [read_tensors, read_arrays, read_json])
def test_what_never_ends_is_refused(tmp_path: Path, read: object) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(ValueError, match="must be a regular file; got a"):
            read(tmp_path / name)  # type: ignore[operator]


def test_arrays_come_back_and_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_arrays(path, {"a": np.arange(3), "b": np.float64(2)}, compressed=True)
    assert {name: value.tolist() for name, value in read_arrays(path, "a").items()} == {
        "a": [0, 1, 2],
        "b": 2,
    }
    with pytest.raises(ValueError, match=r"x\.npz must be a file with the array 'c'"):
        read_arrays(path, "c")
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"x\.npz is damaged"):
        read_arrays(path)
    np.save(tmp_path / "x.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"x\.npy is damaged or no \.npz file"):
        read_arrays(tmp_path / "x.npy")


def test_json_that_is_too_deep_or_lacks_a_name_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match=r"x\.json is damaged"):
        read_json(path)
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"x\.json must be a JSON object with 'a'"):
        read_json(path, "a")
