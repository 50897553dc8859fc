"""A prior that holds training images is published under a named licence or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from huggingface_hub import ModelCard
from huggingface_hub.errors import OfflineModeIsEnabled

from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import GaussianPrior, Prior, RandomAtomPrior
from otprior.sampling import OTPriorPipeline

SCHEDULE = NoiseSchedule.vp(torch.linspace(0.99, 0.01, 50, dtype=torch.float64))
IMAGES = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1


class FakeHub:
    """Stands in for `huggingface_hub.HfApi`; keeps what was uploaded."""

    uploaded: dict[str, str] = {}  # noqa: RUF012
    told: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, token: str | None = None) -> None:
        FakeHub.told = {"token": token}

    def create_repo(self, repo_id: str, **options: Any) -> None:
        FakeHub.uploaded = {"repo": repo_id}
        FakeHub.told |= options

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        FakeHub.told |= options
        for path in Path(folder_path).rglob("*"):
            if path.is_file():
                name = path.relative_to(folder_path).as_posix()
                FakeHub.uploaded[name] = path.read_bytes().decode(errors="replace")
        return f"hub/{repo_id}"


@pytest.fixture(autouse=True)
def _fake_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otprior.utils.hub.HfApi", FakeHub)
    FakeHub.uploaded = {}


def test_training_images_need_a_licence() -> None:
    prior = RandomAtomPrior.fit(IMAGES, SCHEDULE, timestep=20)
    with pytest.raises(ValueError, match="data_license must be named"):
        prior.push_to_hub("someone/prior")
    assert FakeHub.uploaded == {}
    assert prior.push_to_hub("someone/prior", data_license="MIT") == "hub/someone/prior"
    assert "Published under: MIT" in FakeHub.uploaded["README.md"]
    assert set(FakeHub.uploaded) == {"repo", "config.json", "model.safetensors", "README.md"}
    options = {"private": True, "token": "secret", "commit_message": "why"}
    prior.push_to_hub("someone/prior", data_license="MIT", **options)
    assert options.items() <= FakeHub.told.items()


def test_a_pipeline_publishes_no_images_unasked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unet = UNet2DModel(
        sample_size=2,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4,),
        norm_num_groups=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
    )
    scheduler = DDIMScheduler()
    schedule = NoiseSchedule.from_scheduler(scheduler)
    pipe = OTPriorPipeline(unet, scheduler, RandomAtomPrior.fit(IMAGES, schedule, timestep=500))
    with pytest.raises(ValueError, match="data_license must be named"):
        pipe.push_to_hub("someone/fast")
    with pytest.raises(ValueError, match="push_to_hub must be False here"):
        pipe.save_pretrained(tmp_path / "fast", push_to_hub=True)
    assert FakeHub.uploaded == {}
    assert pipe.push_to_hub("someone/fast", data_license="MIT") == "hub/someone/fast"
    assert "Published under: MIT" in FakeHub.uploaded["README.md"]
    # (There is no prior at the top of a pipeline's repository.)
    assert 'OTPriorPipeline.from_pretrained("someone/fast")' in FakeHub.uploaded["README.md"]
    assert " Prior.from_pretrained" not in FakeHub.uploaded["README.md"]
    assert "holds training images" in FakeHub.uploaded["prior/README.md"]
    assert {"model_index.json", "prior/model.safetensors"} < set(FakeHub.uploaded)
    # (The licence was asked for, and the folder is gone.)
    assert "holds training data" not in caplog.text
    pipe.save_pretrained(tmp_path / "fast")
    assert "holds training data" in caplog.text
    pipe.prior = GaussianPrior.fit(IMAGES, schedule, timestep=500)
    pipe.push_to_hub("someone/moments")
    assert "prior/README.md" not in FakeHub.uploaded


@pytest.mark.parametrize(
    ("license", "told"),
    [("MIT", {"license": "mit"}), ("Our own, v2", {"license": "other", "license_name": "our-own-v2"})],
)
def test_the_card_has_front_matter_figures_and_what_is_copied(
    license: str, told: dict[str, str], tmp_path: Path
) -> None:
    row = {"fid": 12.345, "copy_rate": 0.031, "nfe": 5, "samples": 1000}
    report = {"rows": [row], "reference": {"fid_floor": 2.5, "copy_rate": 0.012}, "features": {"name": "own"}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    prior = RandomAtomPrior.fit(IMAGES, SCHEDULE, timestep=20)
    prior.push_to_hub("someone/prior", data_license=license, evaluation=tmp_path)
    card = ModelCard(FakeHub.uploaded["README.md"])
    found = card.data.to_dict()
    assert found == {"library_name": "otprior", "tags": ["otprior", "diffusers", "optimal-transport"], **told}
    for text in (
        "12.35",
        "2.5",
        "3.1%",
        "1.2%",
        "t* = 20",
        "holds images",
        ' Prior.from_pretrained("someone/prior")',
    ):
        assert text in card.text, text
    report["rows"] = []
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="measured by"):
        prior.push_to_hub("someone/prior", data_license=license, evaluation=tmp_path)


def test_moments_need_none() -> None:
    prior = GaussianPrior.fit(IMAGES, SCHEDULE, timestep=20)
    prior.push_to_hub("someone/prior")
    assert set(FakeHub.uploaded) == {"repo", "config.json", "model.safetensors", "README.md"}
    assert "holds no image" in FakeHub.uploaded["README.md"]


def test_a_prior_comes_down_as_it_went_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = GaussianPrior.fit(IMAGES, SCHEDULE, timestep=20)
    prior.save_pretrained(tmp_path / "prior")
    asked: dict[str, Any] = {}

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.update(options, repo_id=repo_id)
        return str(tmp_path / "prior")

    monkeypatch.setattr("otprior.utils.hub.snapshot_download", snapshot_download)
    again = Prior.from_pretrained("someone/prior", revision="v2", token="secret", torch_dtype=None)
    assert torch.equal(again.means, prior.means)
    assert {"repo_id": "someone/prior", "revision": "v2", "token": "secret"}.items() <= asked.items()
    assert "torch_dtype" not in asked

    def unreachable(*_: Any, **__: Any) -> str:
        raise OfflineModeIsEnabled("cannot reach the hub")

    monkeypatch.setattr("otprior.utils.hub.snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match=r"no prior at someone/prior: .*cannot reach the hub"):
        Prior.from_pretrained("someone/prior")


def test_saving_does_not_publish(tmp_path: Path) -> None:
    prior = GaussianPrior.fit(IMAGES, SCHEDULE, timestep=20)
    with pytest.raises(ValueError, match="push_to_hub"):
        prior.save_pretrained(tmp_path / "prior", push_to_hub=True)
    assert not (tmp_path / "prior").exists()
