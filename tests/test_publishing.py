"""A prior that holds training images is published under a named licence or not at all."""

from pathlib import Path
from typing import Any

import pytest
import torch

from otprior.priors import GaussianPrior, RandomAtomPrior
from otprior.schedules import NoiseSchedule

SCHEDULE = NoiseSchedule.vp(torch.linspace(0.99, 0.01, 50, dtype=torch.float64))
IMAGES = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1


class FakeHub:
    """Stands in for `huggingface_hub.HfApi`; keeps what was uploaded."""

    uploaded: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, **_: Any) -> None:
        FakeHub.uploaded = {"repo": repo_id}

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
        for path in Path(folder_path).iterdir():
            FakeHub.uploaded[path.name] = path.read_bytes().decode(errors="replace")
        return f"hub/{repo_id}"


@pytest.fixture(autouse=True)
def _fake_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otprior.priors.base.HfApi", FakeHub)
    FakeHub.uploaded = {}


def test_training_images_need_a_licence() -> None:
    prior = RandomAtomPrior.fit(IMAGES, SCHEDULE, timestep=20)
    with pytest.raises(ValueError, match="data_license must be named"):
        prior.push_to_hub("someone/prior")
    assert FakeHub.uploaded == {}
    assert prior.push_to_hub("someone/prior", data_license="MIT") == "hub/someone/prior"
    assert "Published under: MIT" in FakeHub.uploaded["README.md"]
    assert set(FakeHub.uploaded) == {"repo", "config.json", "model.safetensors", "README.md"}


def test_moments_need_none() -> None:
    prior = GaussianPrior.fit(IMAGES, SCHEDULE, timestep=20)
    prior.push_to_hub("someone/prior")
    assert set(FakeHub.uploaded) == {"repo", "config.json", "model.safetensors"}


def test_saving_does_not_publish(tmp_path: Path) -> None:
    prior = GaussianPrior.fit(IMAGES, SCHEDULE, timestep=20)
    with pytest.raises(ValueError, match="push_to_hub"):
        prior.save_pretrained(tmp_path / "prior", push_to_hub=True)
    assert not (tmp_path / "prior").exists()
