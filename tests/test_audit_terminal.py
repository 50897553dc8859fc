"""The end of a schedule: what is left there, in figures and in words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, ScoreSdeVeScheduler

from otprior.data.images import ImageSet
from otprior.diffusion.known_schedules import known_names, known_schedule, read_scheduler
from otprior.error import Target
from otprior.error.spectrum import radial_spectrum
from otprior.error.terminal import GRADES, judge_terminal, terminal_audit, terminal_data

# (leak at T, where the scheduler begins by itself, grade), of the published schedules. The leaks follow from the betas:
# Π (1 − β) is 4.04e-5 for DDPM and 4.66e-3 for Stable Diffusion, the figure of Lin et al., table 1.
KNOWN = {
    "ddpm-linear": (math.sqrt(4.036e-5), 980, "negligible"),
    "cosine": (4.93e-5, 980, "large"),
    "stable-diffusion": (0.068265, 981, "large"),
    "sdxl": (0.068265, 981, "large"),
    "zero-snr": (0.0, 999, "nothing left"),
    "edm": (1 / math.hypot(1, 80), None, "small"),
    "flow-shift-3": (0.0, None, "nothing left"),
}


def test_every_schedule_that_comes_with_the_package_is_known_here() -> None:
    assert set(known_names()) == set(KNOWN)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_well_known_schedules_leave_what_their_betas_say(name: str) -> None:
    leak, first, grade = KNOWN[name]
    known = known_schedule(name)
    audit = terminal_audit(known.scheduler, known.shape)
    assert audit.leak == pytest.approx(leak, rel=1e-3, abs=1e-12)
    assert audit.first_timestep == first
    assert audit.constant_shift == pytest.approx(leak * math.sqrt(known.shape[1] * known.shape[2]), rel=1e-3)
    found = judge_terminal(audit)
    assert found.grade == grade
    assert found.grade in GRADES
    assert found.finding.endswith(".")
    assert found.remedy.endswith(".")


def test_the_words_name_leak_bias_and_remedy() -> None:
    known = known_schedule("stable-diffusion")
    found = judge_terminal(terminal_audit(known.scheduler, known.shape))
    for words in (
        "0.0683 signal scale at T = 999 leaks the image mean",
        "brightness bias",
        "4.4 standard deviations",
    ):
        assert words in found.finding
    assert "otprior fit --prior gaussian --timestep 999" in found.remedy
    assert "rescale_betas_zero_snr" in found.remedy


def test_a_good_schedule_that_begins_below_its_end_is_told_apart_from_a_bad_one() -> None:
    cosine = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    leading = judge_terminal(terminal_audit(cosine, (3, 64, 64)))
    assert leading.grade == "large"
    assert "as configured the scheduler begins at 980" in leading.finding
    assert "trailing" in leading.remedy
    trailing = DDPMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    assert judge_terminal(terminal_audit(trailing, (3, 64, 64))).grade == "negligible"


def test_zero_snr_with_a_network_that_predicts_noise_is_pointed_out() -> None:
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    found = judge_terminal(terminal_audit(scheduler))
    assert found.grade == "nothing left"
    assert "zero SNR" in found.remedy


def test_the_scheduler_is_left_as_it_was() -> None:
    scheduler = DDPMScheduler()
    before = scheduler.timesteps.clone()
    terminal_audit(scheduler)
    assert torch.equal(scheduler.timesteps, before)


def test_a_scheduler_without_alphas_is_refused() -> None:
    with pytest.raises(ValueError, match="VP, EDM or flow-matching"):
        terminal_audit(ScoreSdeVeScheduler())


# With data ---------------------------------------------------------------------------------------------------


def test_a_constant_image_shifts_the_lowest_frequency_by_leak_and_size() -> None:
    images = torch.full((6, 2, 8, 4), 0.5) * torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1)
    audit = terminal_audit(DDPMScheduler())
    found = terminal_data(audit, ImageSet(images), Target.of(images).spectrum)
    assert found.brightness_shift == pytest.approx(audit.leak * math.sqrt(32) * 0.5)
    assert found.brightness_spread == pytest.approx(0, abs=1e-9)
    assert found.mean_shift == pytest.approx(audit.leak * 0.5 * math.sqrt(64))
    assert found.bits == pytest.approx(0, abs=1e-9)
    # A constant image has all its power at frequency zero.
    assert float(found.excess[0]) == pytest.approx(
        audit.alpha**2 * 32 * 0.25 - (1 - audit.sigma**2), rel=1e-6
    )
    assert bool((found.excess[1:].abs() < 1e-4).all())


def test_bits_and_class_shifts_follow_from_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.3 * torch.randn(4000, 1, 2, 2, generator=generator)
    labels = (torch.arange(4000) % 2).long()
    images[labels == 1] += 0.5
    data = ImageSet(images, labels, class_names=("dark", "bright"))
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=10)
    audit = terminal_audit(DDPMScheduler(num_train_timesteps=200))
    found = terminal_data(audit, data, Target.of(images).spectrum)
    variances = torch.linalg.eigvalsh(torch.cov(images.flatten(1).double().T, correction=0))
    expected = 0.5 * float(torch.log2(1 + (audit.alpha / audit.sigma) ** 2 * variances).sum())
    assert found.bits == pytest.approx(expected, rel=1e-9)
    assert [each.name for each in found.classes] == ["dark", "bright"]
    # The two classes lie a quarter to each side in every one of four pixels; 4,000 images know their mean to 0.01.
    for each in found.classes:
        assert each.shift == pytest.approx(audit.leak * 0.5, abs=audit.leak * 0.02)
    assert judge_terminal(terminal_audit(scheduler)).grade == "nothing left"


def test_data_of_another_shape_are_refused() -> None:
    images = torch.zeros(2, 1, 4, 4)
    audit = terminal_audit(DDPMScheduler(), (3, 4, 4))
    with pytest.raises(ValueError, match=r"of shape \(3, 4, 4\)"):
        terminal_data(audit, ImageSet(images), Target.of(images).spectrum)


# Spectrum ----------------------------------------------------------------------------------------------------


def test_white_noise_has_power_one_at_every_frequency() -> None:
    spectrum = radial_spectrum(torch.randn(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    # Each is a mean of at least 2,000 values of mean and standard deviation 1 (√2 at real coefficients): 5 of those.
    torch.testing.assert_close(
        spectrum.power, torch.ones_like(spectrum.power), rtol=0, atol=5 * math.sqrt(2 / 2000)
    )
    assert int(spectrum.coefficients.sum()) == 64
    assert float(spectrum.mean_power.max()) < 0.01


def test_power_adds_up_to_the_mean_square_and_a_wave_has_its_own_frequency() -> None:
    columns = torch.arange(16)
    wave = torch.cos(2 * math.pi * 3 * columns / 16).expand(1, 1, 16, 16)
    spectrum = radial_spectrum(wave)
    assert float((spectrum.power * spectrum.coefficients).sum()) == pytest.approx(
        float((wave**2).sum()), rel=1e-6
    )
    assert int(spectrum.power.argmax()) == 3
    torch.testing.assert_close(spectrum.power, spectrum.mean_power)
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        radial_spectrum(torch.zeros(4, 4))


# Files -------------------------------------------------------------------------------------------------------


def test_a_scheduler_config_is_read_and_a_bad_one_refused(tmp_path: Path) -> None:
    DDIMScheduler(num_train_timesteps=50).save_pretrained(tmp_path / "scheduler")
    for path in (tmp_path / "scheduler", tmp_path / "scheduler" / "scheduler_config.json"):
        assert terminal_audit(read_scheduler(path)).timestep == 49
    with pytest.raises(FileNotFoundError, match="scheduler_config"):
        read_scheduler(tmp_path)
    bad = tmp_path / "bad.json"
    for content, message in (
        ("[]", "JSON object"),
        ("{", "not valid JSON"),
        (json.dumps({"_class_name": "UNet2DModel"}), "a scheduler"),
    ):
        bad.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_scheduler(bad)
    with pytest.raises(ValueError, match="one of cosine"):
        known_schedule("none")
