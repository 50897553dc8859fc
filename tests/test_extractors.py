"""Every kind of feature extractor gives the features of its own network, and evaluates images from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import assert_refused, run
from PIL import Image
from torch import Tensor, nn

from otprior.metrics import (
    FeatureMoments,
    Reference,
    evaluate,
    extract_features,
    frechet_distance,
    load_extractor,
)
from otprior.metrics.stored import read_features, read_moments

SIDE = 16


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Twelve pictures (12, 3, 16, 16) in [-1, 1] with 8-bit values."""
    values = torch.randint(0, 256, (12, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    return values / 127.5 - 1


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A TorchScript file of `network`."""
    torch.jit.script(network()).save(str(tmp_path / "own.pt"))
    return tmp_path / "own.pt"


def test_a_torchscript_file(script: Path, images: Tensor) -> None:
    extractor = load_extractor(script)
    found = extract_features(extractor, images, batch_size=5)
    with torch.no_grad():
        torch.testing.assert_close(found, network()(images).flatten(1))
    assert extractor.name.startswith("own ")
    torch.jit.script(network(seed=1)).save(str(script))
    assert load_extractor(script).name != extractor.name
    with pytest.raises(ValueError, match="such as the extractor own"):
        extract_features(extractor, images[:, :2])


def test_an_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Tensor) -> None:
    (tmp_path / "my_features.py").write_text(
        "def means():\n    return lambda images: images.mean(dim=(2, 3))\n\ndef none():\n    return 3\n"
        "\ndef flat():\n    return lambda images: images.mean()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    extractor = load_extractor("my_features:means")
    torch.testing.assert_close(extract_features(extractor, images), images.mean(dim=(2, 3)))
    assert extractor.name == "my_features:means"
    for name, message in (("none", "a function"), ("absent", "imported"), ("flat", "one row an image")):
        with pytest.raises(ValueError, match=message):
            extract_features(load_extractor(f"my_features:{name}"), images)


def vision_folder(folder: Path, config: Any, **changes: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    model.save_pretrained(folder)
    settings = {
        "do_resize": True,
        "size": {"shortest_edge": 36},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 28, "width": 28},
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | changes))
    return model


def dinov2() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )


def test_a_hugging_face_folder(tmp_path: Path, images: Tensor) -> None:
    model = vision_folder(tmp_path / "dino", dinov2())
    extractor = load_extractor(tmp_path / "dino")
    found = extract_features(extractor, images, batch_size=5)
    prepared = []
    for image in images:
        picture = Image.fromarray(((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
        large = np.asarray(picture.resize((36, 36), Image.Resampling.BICUBIC).crop((4, 4, 32, 32)))
        values = torch.tensor(large / 255.0, dtype=torch.float32).permute(2, 0, 1)
        mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]))
        prepared.append((values - mean) / std)
    with torch.no_grad():
        expected = model(pixel_values=torch.stack(prepared)).pooler_output
    # Pillow rounds to 8 bits after each of two passes: a level or two of 255, which the network passes on.
    assert (found - expected).abs().max() < 0.05 * expected.std()
    assert extractor.name.startswith("dino ")


def test_grey_images_are_seen_in_three_channels(tmp_path: Path, images: Tensor) -> None:
    vision_folder(tmp_path / "dino", dinov2())
    extractor = load_extractor(tmp_path / "dino")
    grey = images[:, :1]
    both = (extract_features(extractor, each) for each in (grey, grey.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(*both)


def test_pooling_that_was_not_trained_is_not_used(tmp_path: Path, images: Tensor) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=28,
        patch_size=14,
    )
    torch.manual_seed(0)
    bare = transformers.ViTModel(config, add_pooling_layer=False).eval()
    vision_folder(tmp_path / "vit", config)
    bare.save_pretrained(tmp_path / "vit")
    first, second = (extract_features(load_extractor(tmp_path / "vit"), images) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (12, 16)


def test_pickled_and_incomplete_models_are_refused(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model = vision_folder(tmp_path / "dino", dinov2())
    state = safetensors.load_file(tmp_path / "dino" / "model.safetensors")
    state.pop(next(key for key in state if key.endswith("layernorm.weight")))
    safetensors.save_file(state, tmp_path / "dino" / "model.safetensors")
    with pytest.raises(ValueError, match="all of the model"):
        load_extractor(tmp_path / "dino")
    (tmp_path / "dino" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "dino" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_extractor(tmp_path / "dino")


def test_inception_gets_bytes_in_colour(monkeypatch: pytest.MonkeyPatch, images: Tensor) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match="torch-fidelity"):
        load_extractor("inception")

    class Network(nn.Module):
        def __init__(self, name: str, features: list[str]) -> None:
            super().__init__()
            assert features == ["2048"]

        def forward(self, pixels: Tensor) -> tuple[Tensor]:
            assert pixels.dtype == torch.uint8
            return (pixels.float().mean(dim=(2, 3)),)

    stand_in = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    stand_in.FeatureExtractorInceptionV3 = Network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    found = extract_features(load_extractor("inception"), images)
    torch.testing.assert_close(found, ((images + 1) * 127.5).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ["absent", "absent.pt", "a/b/c"])
def test_a_name_that_stands_for_nothing(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="DINOv2"):
        load_extractor(name)


def test_the_bundled_one_is_named_by_its_function() -> None:
    with pytest.raises(FileNotFoundError, match=r"bundled\.extractor"):
        load_extractor("bundled")


@pytest.mark.parametrize("name", ["a.pt", "a.txt", "folder"])
def test_what_is_no_extractor(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.pt").write_bytes(b"no script")
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "folder").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=name):
        load_extractor(tmp_path / name)


# Features and statistics made elsewhere --------------------------------------------------------------------------


def features(count: int, seed: int, width: int = 5) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def reference(of: Tensor | FeatureMoments) -> Reference:
    return Reference.build(of, features(20, 1, 9), features(20, 2), features(15, 3, 9), features(15, 4))


def test_statistics_alone_give_the_same_fid_and_no_more(tmp_path: Path) -> None:
    real, fake = features(60, 5), features(30, 6) + 0.3
    np.savez(
        tmp_path / "stats.npz",
        mu=real.double().mean(dim=0),
        sigma=np.cov(real.double().numpy(), rowvar=False),
    )
    moments = read_moments(tmp_path / "stats.npz")
    assert moments is not None
    assert frechet_distance(fake, moments) == pytest.approx(frechet_distance(fake, real), rel=1e-10)
    whole, known = (
        evaluate(
            fake, features(30, 7, 9), reference=reference(of), generator=torch.Generator().manual_seed(0)
        )
        for of in (real, moments)
    )
    assert known["fid"] == pytest.approx(whole["fid"], rel=1e-10)
    assert all(known[name] is None for name in ("kid", "precision", "recall", "density", "coverage"))
    assert known["copy_rate"] == whole["copy_rate"]


@pytest.mark.parametrize(
    ("mu", "sigma", "message"),
    [
        (np.zeros(3), np.eye(4), "of shapes"),
        (np.zeros(3), np.triu(np.ones((3, 3))), "symmetric"),
        (np.full(3, np.nan), np.eye(3), "finite"),
        (np.zeros(3, dtype=int), np.eye(3), "floating"),
    ],
)
def test_statistics_that_are_none(tmp_path: Path, mu: np.ndarray, sigma: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "stats.npz", mu=mu, sigma=sigma)
    with pytest.raises(ValueError, match=message):
        read_moments(tmp_path / "stats.npz")


def test_images_are_no_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((3, 8, 8)))
    assert read_moments(tmp_path / "images.npz") is None
    with pytest.raises(ValueError, match="samples"):
        read_features(tmp_path / "images.npz")


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_features_that_are_all_the_same_are_refused(noise: float) -> None:
    same = 3.0 + noise * features(60, 5)
    with pytest.raises(ValueError, match="different for different images"):
        reference(same)


# The command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Images in files of the current folder, by the names that features have."""
    monkeypatch.chdir(tmp_path)
    found = {}
    for seed, (name, count) in enumerate(
        {"samples": 12, "reference": 30, "atoms": 20, "held_out": 15}.items()
    ):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        np.savez(f"{name}.npz", images=values.numpy())
        found[name] = values / 127.5 - 1
    return found


EVALUATE = "evaluate samples.npz --reference reference.npz --atoms atoms.npz --held-out held_out.npz"


def report(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "report.json").read_text())
    return found


def test_features_of_a_file_give_the_figures_of_their_extractor(
    sets: dict[str, Tensor], script: Path
) -> None:
    result = run(*EVALUATE.split(), "--extractor", script, "--out", "scripted")
    assert result.exit_code == 0, result.output
    assert report("scripted")["features"] == {"name": load_extractor(script).name, "dim": 6}
    stored = {name: extract_features(load_extractor(script), each).numpy() for name, each in sets.items()}
    np.savez("features.npz", name="mine", **stored)
    assert run(*EVALUATE.split(), "--extractor", "features.npz", "--out", "stored").exit_code == 0
    assert report("stored")["features"] == {"name": "mine", "dim": 6}
    assert report("stored")["rows"] == report("scripted")["rows"]
    assert report("stored")["reference"] == report("scripted")["reference"]
    real = stored["reference"].astype(np.float64)
    np.savez("stats.npz", mu=real.mean(axis=0), sigma=np.cov(real, rowvar=False))
    by_moments = EVALUATE.replace("reference.npz", "stats.npz").split()
    assert run(*by_moments, "--extractor", script, "--out", "moments").exit_code == 0
    (row,), (whole,) = report("moments")["rows"], report("scripted")["rows"]
    assert row["fid"] == pytest.approx(whole["fid"], rel=1e-9)
    assert row.get("kid") is None
    assert row["copy_rate"] == whole["copy_rate"]
    np.savez("features.npz", **(stored | {"atoms": stored["atoms"][:-1]}))
    assert_refused(run(*EVALUATE.split(), "--extractor", "features.npz", "--out", "other"), "20 rows")


def test_the_floor_does_not_depend_on_the_samples(sets: dict[str, Tensor], script: Path) -> None:
    assert run(*EVALUATE.split(), "--extractor", script, "--out", "one").exit_code == 0
    np.savez("samples.npz", images=((sets["samples"].flip(0) + 1) * 100).byte().numpy())
    assert run(*EVALUATE.split(), "--extractor", script, "--out", "two").exit_code == 0
    assert report("one")["rows"][0]["fid"] != report("two")["rows"][0]["fid"]
    assert report("one")["reference"] == report("two")["reference"]


def test_colour_images_without_an_extractor_are_told_what_to_do(sets: dict[str, Tensor]) -> None:
    assert_refused(run(*EVALUATE.split(), "--out", "out"), "--extractor", "dinov2")
    assert_refused(
        run(*EVALUATE.split(), "--extractor", "absent", "--out", "out"), "no such file", "TorchScript"
    )
