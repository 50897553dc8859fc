"""Work folders go on for the job that marked them, and refuse any other."""

from pathlib import Path

import pytest

from otprior.utils.work_folder import mark_work


def test_only_the_same_job_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "job.work" / "settings.json"
    mark_work(path, {"steps": 5, "images": [1, 2]}, "of these settings")
    mark_work(path, {"steps": 5, "images": [1, 2]}, "of these settings")
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"job\.work must be empty, or of these settings; got another's\. Name"
    ):
        mark_work(path, {"steps": 6, "images": [1, 2]}, "of these settings")
    assert path.read_bytes() == before


def test_a_damaged_mark_is_named(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json is not valid JSON"):
        mark_work(path, {}, "of these settings")
