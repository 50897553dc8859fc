"""Publishing on the Hugging Face hub: what is written to a folder goes up, with the licence of the images in it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi

__all__ = ["upload"]


def upload(
    write: Callable[[Path], object],
    repo_id: str,
    *,
    card: str,
    data_license: str | None,
    private: bool | None,
    token: str | None,
    commit_message: str,
) -> str:
    """Uploads a folder; returns its address.

    Arguments:
        write: Makes the folder.
        repo_id: "owner/name".
        card: The file in it that tells of the images, to which the licence is added.
        data_license: Under which they may be shared; None if there are none.
        private, token, commit_message: As in `huggingface_hub`.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "upload")
        write(folder)
        if data_license:
            path = folder / card
            known = path.read_text(encoding="utf-8") if path.exists() else ""
            path.write_text(f"{known}\nPublished under: {data_license}\n", encoding="utf-8")
        api.create_repo(repo_id, private=private, exist_ok=True)
        return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
