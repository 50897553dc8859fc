"""Mutated arguments, files and states of torch: each gives a right result, or one error that says what is wrong.

`tests/campaign` does the same to commands, at length.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import SIZE, write_tame_model
from diffusers import DDPMScheduler
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from test_torch_state import OF_NETWORKS, STATES, same
from torch import Tensor

from otprior import (
    BrenierPotential,
    GaussianPrior,
    IdentityPrior,
    MixturePrior,
    NoiseSchedule,
    Prior,
    SemiDiscretePrior,
    load_images,
    seeds_to_generators,
    solve_semidiscrete,
    timestep_grid,
    transport_cost,
)
from otprior.cli.inputs import load_model
from otprior.data import ImageSet, check_images
from otprior.metrics import duplicate_rate, frechet_distance, nearest
from otprior.sampling import StartSpec, read_settings, write_settings
from otprior.utils.files import read_json

FAST = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCHEDULER = DDPMScheduler()
SCHEDULE = NoiseSchedule.from_scheduler(SCHEDULER)
torch.manual_seed(0)
IMAGES = torch.tanh(torch.randn(20, 3) @ torch.randn(3, SIZE * SIZE)).reshape(20, 1, SIZE, SIZE)
SEMIDISCRETE = SemiDiscretePrior.fit(IMAGES, SCHEDULER, 500, tol=0.5)
Z = torch.randn(2, 1, SIZE, SIZE)

# What might come instead of an argument; the sizes are those that take no time where they are right.
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        2,
        7,
        -1,
        0.5,
        1e-320,
        1e308,
        math.inf,
        -math.inf,
        math.nan,
        10**9,
        2**63,
        10**30,
    ),
    *("", "a", "5", b"5", [], [1], [None], {}, (), object(), 1j, np.int64(3), np.float32(0.5), np.array([3])),
    *(
        np.array(500),
        torch.tensor(3),
        torch.tensor([1.0, 2.0]),
        torch.tensor(math.nan),
        range(3),
        np.bool_(True),
    ),
    *(IMAGES, IMAGES.numpy(), IMAGES[:0], IMAGES.double(), IMAGES * math.nan, SCHEDULER, SCHEDULE),
)


def finite(value: Any) -> bool:
    """Whether a result holds no NaN."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    if isinstance(value, ImageSet):
        return finite(value.images)
    if isinstance(value, Prior):
        z = torch.randn(2, *value.shape)
        return all(map(finite, value.state_dict().values())) and finite(value(z))
    return not isinstance(value, float) or math.isfinite(value)


def right_or_refused(call: Callable[[], Any]) -> Any:
    """The result, free of NaN; None if it was refused by an error that says something."""
    try:
        result = call()
    except (ValueError, OSError) as error:
        assert len(str(error)) > 10, repr(error)  # noqa: PT017
        return None
    assert finite(result)
    return result


# Arguments ------------------------------------------------------------------------------------------------

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "alpha": (SCHEDULE.alpha, {"t": 3}),
    "timestep of": (SCHEDULE.timestep, {"log_snr": 0.0}),
    "grid": (
        timestep_grid,
        {"schedule": SCHEDULE, "start": 500, "num_steps": 5, "spacing": "time", "end": 0},
    ),
    "seeds": (seeds_to_generators, {"seeds": [0, 1]}),
    "identity": (IdentityPrior.build, {"shape": (1, SIZE, SIZE), "schedule": SCHEDULER, "timestep": 500}),
    "gaussian": (
        GaussianPrior.fit,
        {"data": IMAGES, "schedule": SCHEDULER, "timestep": 500, "labels": None, "rank": 3},
    ),
    "mixture": (
        MixturePrior.fit,
        {"data": IMAGES, "schedule": SCHEDULER, "timestep": 500, "components": 3, "rank": 2, "tol": 0.5},
    ),
    "semidiscrete": (
        SemiDiscretePrior.fit,
        {
            "data": IMAGES,
            "schedule": SCHEDULER,
            "timestep": 500,
            "tol": 0.5,
            "noise": "coupled",
            "smoothing": 0.0,
        },
    ),
    "at": (SEMIDISCRETE.at, {"timestep": 400}),
    "start": (SEMIDISCRETE, {"z": Z, "labels": None}),
    "solve": (
        solve_semidiscrete,
        {"atoms": IMAGES.flatten(1), "weights": None, "tol": 0.5, "max_draws": 5000},
    ),
    "cost": (transport_cost, {"atoms": IMAGES.flatten(1), "potential": torch.zeros(20), "draws": 1000}),
    "potential": (BrenierPotential.build, {"atoms": IMAGES.flatten(1), "offsets": torch.zeros(20)}),
    "images": (check_images, {"images": IMAGES, "value_range": (-1, 1)}),
    "nearest": (nearest, {"x": IMAGES.flatten(1)[:3], "y": IMAGES.flatten(1), "k": 2}),
    "fid": (frechet_distance, {"a": IMAGES.flatten(1), "b": IMAGES.flatten(1)}),
    "duplicates": (duplicate_rate, {"images": IMAGES, "tolerance": 0.01}),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments(name: str) -> None:
    """One argument or two are something odd."""
    function, usual = CALLS[name]

    @FAST
    @given(st.dictionaries(st.sampled_from(sorted(usual)), st.sampled_from(ODD), min_size=1, max_size=2))
    def check(odd: dict[str, Any]) -> None:
        right_or_refused(lambda: function(**usual | odd))

    check()


# Files ----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.sampled_from((None, True, 0, 1, -1, 2.5, 10**30, 1e300, math.nan, math.inf, "", "a", "é" * 50)),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(("a", "b")), inner, max_size=2)
    ),
    max_leaves=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved prior, a model, settings."""
    folder = tmp_path_factory.mktemp("files")
    GaussianPrior.fit(IMAGES, SCHEDULER, 500, rank=3).save_pretrained(folder / "prior")
    SEMIDISCRETE.save_pretrained(folder / "atoms")
    write_tame_model(folder / "model")
    spec = StartSpec("semidiscrete", 500, 2, label="x", options=(("noise", "coupled"),))
    write_settings(folder / "settings.json", {"a": spec}, "val", "by hand")
    return folder


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Any:
    """Lets a file be another one for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    items = list(
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [(value, key) for key, _ in items] + [each for _, inner in items for each in places(inner)]


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("prior/config.json", lambda folder: Prior.from_pretrained(folder / "prior")),
        ("atoms/config.json", lambda folder: Prior.from_pretrained(folder / "atoms")),
        ("settings.json", lambda folder: read_settings(folder / "settings.json")),
        ("model/model_index.json", lambda folder: load_model(str(folder / "model"))),
    ],
)
def test_json(name: str, load: Callable[[Path], Any], folder: Path) -> None:
    """A value is another one, or gone, or the text is damaged."""
    text = (folder / name).read_text(encoding="utf-8")

    @FAST
    @given(st.data())
    def check(data: st.DataObject) -> None:
        value = json.loads(text)
        inside, key = data.draw(st.sampled_from(places(value)), label="place")
        if data.draw(st.booleans(), label="drop"):
            del inside[key]
        else:
            inside[key] = data.draw(JSON, label="instead")
        changed = json.dumps(value)
        if data.draw(st.integers(0, 9)) == 0:
            changed = changed[: data.draw(st.integers(0, len(changed)))]
        with replaced(folder / name, changed.encode()):
            right_or_refused(lambda: load(folder))

    check()


@FAST
@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    # (NaN and Infinity are read: diffusers writes them.)
    right_or_refused(lambda: json.dumps(read_json(path)))


@pytest.mark.parametrize("name", ["prior", "atoms"])
def test_safetensors(name: str, folder: Path) -> None:
    """Bytes or entries of the header change: what loads is the prior that was saved."""
    path = folder / name / "model.safetensors"
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    saved = Prior.from_pretrained(folder / name).state_dict()

    @FAST
    @given(st.data())
    def check(data: st.DataObject) -> None:
        how = data.draw(st.sampled_from(("flip", "cut", "header", "length")))
        changed = bytearray(content)
        if how == "flip":
            for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
                changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del changed[data.draw(st.integers(0, len(content) - 1)) :]
        elif how == "length":
            changed[:8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
        else:
            header = json.loads(content[8 : 8 + size])
            inside, key = data.draw(st.sampled_from(places(header)))
            inside[key] = data.draw(JSON)
            text = json.dumps(header).encode()
            changed[: 8 + size] = struct.pack("<Q", len(text)) + text
        with replaced(path, bytes(changed)):
            loaded = right_or_refused(lambda: Prior.from_pretrained(folder / name))
        # (Or entries of the header came in another order.)
        assert loaded is None or all(torch.equal(saved[k], v) for k, v in loaded.state_dict().items())

    check()


@FAST
@given(
    images=npst.arrays(
        npst.scalar_dtypes() | npst.byte_string_dtypes() | npst.unicode_string_dtypes(),
        npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    ),
    labels=st.none()
    | npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, max_dims=2, max_side=4)),
    suffix=st.sampled_from((".npz", ".npy")),
    value_range=st.sampled_from(("auto", (0, 1), (-1, 1), None)),
)
def test_arrays(tmp_path: Path, images: np.ndarray, labels: Any, suffix: str, value_range: Any) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, images)
    else:
        np.savez(path, images=images, **({} if labels is None else {"labels": labels}))
    loaded = right_or_refused(lambda: load_images(path, value_range=value_range))
    if loaded is not None:
        assert loaded.images.ndim == 4
        assert loaded.images.dtype == torch.float32
        assert value_range is None or float(loaded.images.abs().max()) <= 1
        assert loaded.labels is None or len(loaded.labels) == len(loaded.images)


@FAST
@given(st.data())
def test_damaged_arrays(tmp_path: Path, data: st.DataObject) -> None:
    file = io.BytesIO()
    data.draw(st.sampled_from((np.savez, np.savez_compressed)))(
        file, images=IMAGES.numpy(), labels=np.arange(20) % 3
    )
    content = bytearray(file.getvalue())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "x.npz").write_bytes(content[: data.draw(st.sampled_from((None, len(content) // 2)))])
    right_or_refused(lambda: load_images(tmp_path / "x.npz"))


@FAST
@given(st.data())
def test_image_folders(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Pictures of every mode, some damaged, with strange names and files beside them."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(data.draw(st.integers(0, 3))):
        mode = data.draw(st.sampled_from(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16")))
        form = data.draw(st.sampled_from(("PNG", "JPEG", "TIFF", "GIF", "BMP", "PPM")))
        size = data.draw(st.sampled_from(((SIZE, SIZE), (SIZE, SIZE), (1, 1), (9, SIZE))))
        file = io.BytesIO()
        try:
            Image.new(mode, size, number + 1 if mode not in ("LA", "RGB", "RGBA", "CMYK") else None).save(
                file, form
            )
        except (OSError, ValueError, KeyError):
            assume(False)  # Pillow writes no such file
        content = bytearray(file.getvalue())
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=2)):
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        name = data.draw(st.sampled_from(("a", "0/a", "1/a", "[red]", "é", ".hidden")))
        suffix = data.draw(st.sampled_from((".png", ".jpg", ".PNG", ".tif", ".gif", ".txt", "")))
        path = folder / f"{name}{number}{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    beside = data.draw(st.sampled_from((None, "metadata.jsonl", "dataset.json", "labels.json")))
    if beside is not None:
        (folder / beside).write_text(json.dumps(data.draw(JSON)))
    loaded = right_or_refused(lambda: load_images(folder))
    assert loaded is None or float(loaded.images.abs().max()) <= 1


# The state of torch ------------------------------------------------------------------------------------------


@settings(FAST, max_examples=8)
@given(st.sets(st.sampled_from(sorted(STATES | OF_NETWORKS)), min_size=2, max_size=4))
def test_states_of_torch_together(names: set[str]) -> None:
    """`test_torch_state` has every state alone, for everything that is promised exact."""
    # (Two defaults at once undo each other in another order than they were set.)
    assume(not {"float64", "float16"} <= names)

    def results() -> list[Any]:
        prior = GaussianPrior.fit(IMAGES, SCHEDULER, 500, rank=3)
        solution = solve_semidiscrete(IMAGES.flatten(1), tol=0.5)
        return [*prior.state_dict().values(), prior(Z), SEMIDISCRETE(Z), solution.potential]

    plain = results()
    with contextlib.ExitStack() as stack:
        for name in sorted(names):
            stack.enter_context((STATES | OF_NETWORKS)[name]())
        found = results()
    assert same(found, plain)
