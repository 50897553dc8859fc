"""The feature extractor: fixed, row by row, and as accurate as its file says."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from otprior.data import bundled
from otprior.metrics.features import (
    FeatureExtractor,
    classify,
    extract_features,
    load_classifier,
    save_extractor,
)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return bundled.extractor()


@pytest.fixture(scope="module")
def held_out():
    return bundled.split("held_out")


@pytest.fixture
def small() -> FeatureExtractor:
    """Untrained, for three-channel images, with running statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = FeatureExtractor("small", (3, 8, 12), (4, 6, 8), dim=5, classes=3, info={"note": "untrained"})
    model(torch.randn(50, 3, 8, 12))
    return model


def test_the_stated_accuracy_is_that_of_the_ten_thousand_test_images(extractor):
    stated, parts = extractor.info["test_accuracy"], []
    for name in bundled.SPLITS:
        part = bundled.split(name)
        parts.append(classify(extractor, part.images) == part.labels)
        # Each split is a random part of the 10,000: four standard errors of such a part.
        error = (stated * (1 - stated) * (1 / len(part) - 1 / 10_000)) ** 0.5
        assert abs(float(parts[-1].double().mean()) - stated) < 4 * error
    correct = torch.cat(parts)
    assert stated >= 0.91
    assert len(correct) == extractor.info["test_images"]
    # An image on the border between two classes may fall either way with another CPU's rounding.
    assert abs(int(correct.sum()) - stated * len(correct)) <= 2


def test_features_are_what_the_name_says(extractor, held_out):
    features = extract_features(extractor, held_out.images[:200])
    assert extractor.name == "fashion-mnist-cnn-128"
    assert extractor.dim == 128
    assert features.shape == (200, 128)
    assert features.dtype == torch.float32
    assert features.min() == 0
    assert torch.equal(extractor.head(features).argmax(dim=1), classify(extractor, held_out.images[:200]))
    # Some rectified units never fire (14 of 128 do not here): covariances are singular and metrics must bear it.
    assert int((extract_features(extractor, held_out.images[:1000]).std(dim=0) > 0).sum()) >= 110


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_features_do_not_depend_on_the_batch(extractor, held_out, batch_size):
    images = held_out.images[:100]
    features = extract_features(extractor, images, batch_size)
    reference = extract_features(extractor, images)
    # Sums of about a thousand float32 products in another order.
    assert torch.allclose(features, reference, rtol=1e-5, atol=1e-5 * float(reference.max()))


def test_a_row_depends_on_its_image_alone_even_in_training_mode(small):
    images = torch.randn(6, 3, 8, 12)
    small.train()
    together = extract_features(small, images)
    assert small.training
    assert torch.allclose(together[2:3], extract_features(small, images[2:3]), atol=1e-6)


def test_any_module_serves_as_an_extractor():
    images = torch.randn(7, 3, 4, 4)
    assert torch.equal(extract_features(torch.nn.Flatten(), images, 2), images.reshape(7, 48))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.float16, 2e-3)])
def test_a_saved_extractor_comes_back(tmp_path, small, dtype, tolerance):
    save_extractor(small, tmp_path / "c", dtype)
    loaded = load_classifier(tmp_path / "c")
    images = torch.randn(20, 3, 8, 12)
    expected = extract_features(small, images)
    error = (extract_features(loaded, images) - expected).norm() / expected.norm()
    assert error <= tolerance
    assert loaded.config() == small.config()
    assert not loaded.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("shape", [(2, 1, 8, 12), (2, 3, 28, 28), (3, 8, 12)])
def test_images_of_another_shape_are_refused(small, shape):
    with pytest.raises(ValueError, match=r"\(N, 3, 8, 12\) for the features 'small'"):
        extract_features(small, torch.zeros(shape))


def test_bad_calls_are_refused(small):
    with pytest.raises(ValueError, match="at least one image"):
        extract_features(small, torch.zeros(0, 3, 8, 12))
    with pytest.raises(ValueError, match="batch_size must be"):
        classify(small, torch.zeros(1, 3, 8, 12), batch_size=0)
    with pytest.raises(ValueError, match="divisible by 4"):
        FeatureExtractor("odd", (1, 30, 28))


def test_damaged_folders_are_named(tmp_path, small):
    folder = tmp_path / "c"
    with pytest.raises(FileNotFoundError, match=r"no file config\.json"):
        load_classifier(folder)
    save_extractor(small, folder, torch.float32)
    weights, config = folder / "model.safetensors", folder / "config.json"
    content, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_classifier(folder)
    weights.write_bytes(content)
    save_file({k: v for k, v in load_file(weights).items() if k != "head.bias"}, weights)
    with pytest.raises(ValueError, match=r"head\.bias"):
        load_classifier(folder)
    config.write_text(json.dumps({**json.loads(text), "format_version": 99}))
    with pytest.raises(ValueError, match=r"format_version .* must be 1; got 99"):
        load_classifier(folder)
    config.write_text(text[:50])
    with pytest.raises(ValueError, match="not valid JSON"):
        load_classifier(folder)
