"""Training: schedules by closed forms, steps that a killed run takes up bit for bit, folders that the loaders read."""

from __future__ import annotations

import math
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from otprior import NoiseSchedule, OTPriorPipeline
from otprior.data import bundled
from otprior.data.images import ImageSet, to_uint8
from otprior.metrics.features import classify
from otprior.utils.files import read_json
from otprior_studies.training.classifier import train_classifier
from otprior_studies.training.export import stored
from otprior_studies.training.loop import (
    TrainingProgress,
    _Training,
    batch_rows,
    checkpoint_path,
    train_network,
)
from otprior_studies.training.network import NetworkPlan, build_network
from otprior_studies.training.schedules import training_scheduler
from otprior_studies.training.splits import in_hash_order, select_classes, split_images

PLAN = NetworkPlan(channels=(8, 32), layers=1, classes=2, steps=4, batch_size=6, checkpoints=(50, 100))


@pytest.fixture(scope="module")
def stripes() -> ImageSet:
    """20 images of 8 x 8: bright rows of class 0, bright columns of class 1, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 2
    images = -torch.ones(20, 1, 8, 8)
    images[labels == 0, :, 2:4] = 0.8
    images[labels == 1, :, :, 2:4] = 0.8
    images += 0.1 * torch.randn(images.shape, generator=generator)
    return ImageSet(images.clamp(-1, 1), labels, "stripes")


def terminal_alpha(name: str) -> float:
    schedule = NoiseSchedule.from_scheduler(training_scheduler(name))
    return schedule.alpha(schedule.timestep_range[1])


def test_leaks_are_those_of_the_closed_forms() -> None:
    # ᾱ_T = Π (1 − β_t); the scheduler multiplies a thousand float32 numbers, each good to 6e-8.
    betas = np.linspace(1e-4, 2e-2, 1000)
    assert terminal_alpha("linear") == pytest.approx(np.sqrt(np.prod(1 - betas)), rel=1e-4)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = np.sqrt(np.prod(1 - betas))
    assert terminal_alpha("scaled-linear") == pytest.approx(alpha, rel=1e-4)
    # A shift of log_snr by 2 ln(64/W) multiplies α/σ by 64/W.
    ratio = 4 * alpha / math.sqrt(1 - alpha**2)
    assert terminal_alpha("shifted:16") == pytest.approx(ratio / math.hypot(1, ratio), rel=1e-3)
    assert terminal_alpha("ve:5") == pytest.approx(1 / math.sqrt(26), rel=1e-3)
    assert terminal_alpha("cosine") < 1e-4


def test_no_signal_at_all_is_left_after_rescaling() -> None:
    scheduler = training_scheduler("zero-snr")
    assert float(scheduler.alphas_cumprod[-1]) == 0.0
    assert scheduler.config.prediction_type == "v_prediction"
    assert terminal_alpha("zero-snr") == 0.0
    rescaled = training_scheduler("linear", "sample", zero_terminal_snr=True)
    assert float(rescaled.alphas_cumprod[-1]) == 0.0


def test_a_variance_exploding_process_is_told_in_its_preserving_form() -> None:
    # α/σ = 1/σ_VE at every step; the cleanest ones are products of numbers within 1e-6 of 1, kept in float32.
    schedule = NoiseSchedule.from_scheduler(training_scheduler("ve:5"))
    times = torch.arange(100.0, 1000.0, 100.0)
    ratio = schedule.sigma(times) / schedule.alpha(times)
    sigmas = 0.02 * (5 / 0.02) ** (times.double() / 999)
    torch.testing.assert_close(ratio, sigmas, rtol=1e-2, atol=0)


def test_a_scheduler_file_names_a_process_too(tmp_path: Path) -> None:
    training_scheduler("scaled-linear").save_config(tmp_path)
    again = training_scheduler(str(tmp_path / "scheduler_config.json"))
    assert torch.equal(again.betas, training_scheduler("scaled-linear").betas)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sigmoid",), "schedule must be one of linear"),
        (("ve:much",), "schedule must be written as"),
        (("shifted:-1",), "must be positive"),
        (("ve:0.01",), "above 0.02"),
        (("zero-snr", "epsilon"), "v_prediction or sample where no signal"),
        (("linear", "score"), "prediction must be one of"),
    ],
)
def test_schedules_that_cannot_be_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_scheduler(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"channels": (8, 20)}, "channels must be multiples of 8"),
        ({"checkpoints": (50,)}, "the last of them 100"),
        ({"checkpoints": (50, 25, 100)}, "ascending"),
        ({"label_drop": 1.0}, r"label_drop must be in \[0, 1\)"),
        ({"precision": "float16"}, "precision must be one of"),
    ],
)
def test_plans_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **changes)


def test_the_default_plan_is_the_bundled_network() -> None:
    mine = build_network(NetworkPlan(classes=10), (1, 28, 28))
    bundled_one = bundled.load_pipeline().unet
    assert {name: value.shape for name, value in mine.state_dict().items()} == {
        name: value.shape for name, value in bundled_one.state_dict().items()
    }
    with pytest.raises(ValueError, match="divisible by 4"):
        build_network(NetworkPlan(), (1, 14, 14))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_run_goes_on_bit_for_bit(stripes: ImageSet, tmp_path: Path, precision: str) -> None:
    scheduler, plan = training_scheduler("zero-snr"), replace(PLAN, precision=precision)
    seen: list[TrainingProgress] = []
    whole = train_network(stripes, scheduler, plan, tmp_path / "whole", listen=seen.append)
    assert [at.step for at in seen] == [1, 2, 3, 4]
    # Stopped between two checkpoints, and, by an error, between a step and its being kept.
    assert [path.name for path in train_network(stripes, scheduler, plan, tmp_path / "cut", until=3)] == [
        "50-percent"
    ]

    def stop(at: TrainingProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_network(stripes, scheduler, plan, tmp_path / "cut", listen=stop)
    # Another process has another scheduler object, whose config lists the same in another order.
    scheduler.save_config(tmp_path)
    again = training_scheduler(str(tmp_path / "scheduler_config.json"))
    cut = train_network(stripes, again, plan, tmp_path / "cut")
    assert [path.name for path in cut] == [path.name for path in whole] == ["50-percent", "100-percent"]
    for name in ("50-percent", "100-percent"):
        for file in ("unet/diffusion_pytorch_model.safetensors", "training.json", "model_index.json"):
            one, other = (tmp_path / run / name / file for run in ("whole", "cut"))
            assert one.read_bytes() == other.read_bytes(), file
    with pytest.raises(ValueError, match="of the same images, schedule and plan"):
        train_network(stripes, scheduler, replace(plan, seed=1), tmp_path / "cut")


def test_a_checkpoint_is_loaded_by_the_project_and_by_diffusers(stripes: ImageSet, tmp_path: Path) -> None:
    from diffusers import DDPMPipeline

    train_network(stripes, training_scheduler("ve:5"), replace(PLAN, steps=1, checkpoints=(100,)), tmp_path)
    folder = checkpoint_path(tmp_path, 100)
    pipe: Any = OTPriorPipeline.from_pretrained(folder)
    assert pipe.config.null_class_label == 2
    assert pipe.dtype == torch.float32
    pipe.set_progress_bar_config(disable=True)
    out = pipe(batch_size=2, num_inference_steps=2, output_type="latent")
    assert out.images.shape == (2, 1, 8, 8)
    plain: Any = DDPMPipeline.from_pretrained(folder, local_files_only=True)
    for (name, mine), theirs in zip(
        pipe.unet.state_dict().items(), plain.unet.state_dict().values(), strict=True
    ):
        assert torch.equal(mine.float(), theirs.float()), name
    assert torch.equal(plain.scheduler.alphas_cumprod, training_scheduler("ve:5").alphas_cumprod)


def test_the_script_trains_on_some_classes_and_goes_on(
    stripes: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stripes.labels is not None
    data, out = tmp_path / "stripes.npz", tmp_path / "network"
    np.savez(data, images=to_uint8(stripes.images), labels=stripes.labels.numpy())
    given = f"{data} --out {out} --classes 1 --unconditional --schedule shifted:16 --channels 8,32 --layers 1"
    given += " --batch-size 4 --steps 2 --checkpoints 50,100"
    monkeypatch.setattr(sys, "argv", ["train_network.py", *given.split()])
    for _ in range(2):
        runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "train_network.py"), run_name="__main__")
        assert capsys.readouterr().out.splitlines()[-2:] == [f"{out}/50-percent", f"{out}/100-percent"]
    facts = read_json(out / "100-percent" / "training.json")
    assert (facts["images"], facts["steps_done"], facts["plan"]["classes"]) == (10, 2, None)


def test_large_tensors_are_stored_in_half_precision() -> None:
    assert stored(torch.zeros(5001)).dtype == torch.float16
    assert stored(torch.zeros(5000)).dtype == torch.float32
    assert stored(torch.zeros(9999, dtype=torch.int64)).dtype == torch.int64


def test_training_learns(stripes: ImageSet, tmp_path: Path) -> None:
    plan = replace(PLAN, steps=40, batch_size=8, classes=None, rate=3e-3, checkpoints=(100,))
    losses: list[float] = []
    images = replace(stripes, labels=None)
    train_network(
        images, training_scheduler("linear"), plan, tmp_path, listen=lambda at: losses.append(at.loss)
    )
    # An untrained network predicts about nothing of a noise of variance 1.
    assert losses[0] > 0.8
    assert losses[-1] < 0.7 * losses[0]


def test_every_image_is_seen_once_an_epoch() -> None:
    # Five batches of six are three epochs of ten.
    rows = torch.cat([batch_rows(0, step, 6, 10) for step in range(5)])
    for epoch in rows.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(rows[:10], rows[10:20])


def test_labels_must_fit_the_plan(stripes: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labels must be in \[0, 0\]"):
        train_network(stripes, training_scheduler("linear"), replace(PLAN, classes=1), tmp_path)
    with pytest.raises(ValueError, match="labelled"):
        train_network(replace(stripes, labels=None), training_scheduler("linear"), PLAN, tmp_path)


def test_classes_are_selected_and_renumbered(stripes: ImageSet) -> None:
    named = replace(stripes, class_names=("rows", "columns"))
    chosen = select_classes(named, [1, 0])
    assert chosen.class_names == ("columns", "rows")
    assert torch.equal(chosen.labels, 1 - stripes.labels)  # type: ignore[operator, arg-type]
    alone = select_classes(named, [1])
    assert (len(alone), set(alone.labels.tolist())) == (10, {0})  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="classes must be among the labels"):
        select_classes(stripes, [5])
    with pytest.raises(ValueError, match="different"):
        select_classes(stripes, [1, 1])


def test_splits_are_disjoint_and_in_the_order_of_hashes(stripes: ImageSet) -> None:
    parts = split_images(stripes, {"a": 5, "b": 12}, "key")
    order = in_hash_order("key", np.arange(20))
    assert torch.equal(parts["a"].images, stripes.images[order[:5]])
    assert torch.equal(parts["b"].images, stripes.images[order[5:17]])
    assert parts["b"].name == "stripes/b"
    with pytest.raises(ValueError, match="at least 30"):
        split_images(stripes, {"a": 30}, "key")


def test_a_classifier_tells_rows_from_columns_and_leaves_the_generator_alone(stripes: ImageSet) -> None:
    assert stripes.labels is not None
    before = torch.get_rng_state()
    options: dict[str, Any] = {"name": "stripes", "classes": 2, "widths": (4, 4, 4), "dim": 8, "epochs": 12}
    model, again = (
        train_classifier(stripes.images, stripes.labels, batch_size=5, **options) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    assert float((classify(model, stripes.images) == stripes.labels).double().mean()) == 1.0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weighs_the_error_of_the_clean_image(
    prediction: str, stripes: ImageSet, tmp_path: Path
) -> None:
    # Whatever is predicted: an error e in x_0 is one of α/σ e in ε and of e/σ in v (up to its sign), so that weights
    # times those squares are min(SNR, 5).
    scheduler = training_scheduler("linear", prediction)
    training = _Training(stripes, scheduler, replace(PLAN, weighting="min-snr"), None)
    signal = scheduler.alphas_cumprod
    squares = {"epsilon": signal / (1 - signal), "v_prediction": 1 / (1 - signal), "sample": 1}
    expected = (signal / (1 - signal)).clamp(max=5)
    # (Products of three float32 numbers.)
    torch.testing.assert_close(training.weights * squares[prediction], expected, rtol=1e-5, atol=0)


def test_a_training_begins_with_the_weights_of_another_network(stripes: ImageSet, tmp_path: Path) -> None:
    scheduler = training_scheduler("linear")
    first = train_network(stripes, scheduler, PLAN, tmp_path / "first")[-1]
    network = UNet2DModel.from_pretrained(first, subfolder="unet")
    training = _Training(stripes, scheduler, replace(PLAN, weighting="min-snr"), network)
    for key, value in network.state_dict().items():
        assert torch.equal(training.network.state_dict()[key], value)
    # A folder belongs to the network that was begun with.
    further = {"until": 1, "begin": network}
    train_network(stripes, scheduler, PLAN, tmp_path / "further", **further)
    train_network(stripes, scheduler, PLAN, tmp_path / "further", **further | {"until": 2})
    with pytest.raises(ValueError, match="plan"):
        train_network(stripes, scheduler, PLAN, tmp_path / "further")
    with pytest.raises(ValueError, match="begin"):
        train_network(stripes, scheduler, replace(PLAN, channels=(16, 32)), tmp_path / "other", begin=network)
