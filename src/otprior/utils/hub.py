"""The Hugging Face hub: a folder goes up, with the licence of the images in it, and comes down."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from otprior.utils.files import WRITTEN

# What says where and as whom a name is looked up.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def is_hub_name(path: str | Path) -> bool:
    """Whether this is of the form "owner/name" and no path that exists."""
    return not Path(path).exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(path)) is not None


def local_folder(path: str | Path, **options: Any) -> Path:
    """The folder itself, or where a prior's repository of that name was downloaded to.

    Arguments:
        path: A folder, or "owner/name".
        options: As for diffusers' `from_pretrained`; those of `HUB_OPTIONS` are heeded.

    Raises:
        FileNotFoundError: If it is neither a path nor a repository that can be reached.
    """
    if not is_hub_name(path):
        return Path(path)
    own = {name: options[name] for name in HUB_OPTIONS if name in options and name != "proxies"}
    try:
        return Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.md"], **own))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"no prior at {path}: there is no such folder, and on the hub: {reason}"
        ) from error


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
        for path in folder.rglob(WRITTEN):
            path.unlink()  # it speaks of a folder that is replaced
        if data_license:
            path = folder / card
            known = path.read_text(encoding="utf-8") if path.exists() else ""
            path.write_text(f"{known}\nPublished under: {data_license}\n", encoding="utf-8")
        api.create_repo(repo_id, private=private, exist_ok=True)
        return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
