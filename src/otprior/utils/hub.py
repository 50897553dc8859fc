"""The Hugging Face hub: a folder goes up, with the licence of the images in it, and comes down."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from otprior.utils.files import WRITTEN

# What says where and as whom a name is looked up.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")

# Endings of files; no repository is named like one.
FILE_ENDING = re.compile(
    r"\.(npz|npy|zip|tar|t?gz|parquet|safetensors|json|pth?|bin|ckpt|png|jpe?g)$", re.IGNORECASE
)

# Whether what is written now goes up under a licence that was asked for: it need not be warned of.
UPLOADS = ContextVar("UPLOADS", default=False)

# The files of a prior's folder.
PRIOR_FILES = ("config.json", "model.safetensors", "README.md")


def is_hub_name(path: str | Path) -> bool:
    """Whether this is of the form "owner/name", no path that exists, and not named like a file."""
    named = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(path)) is not None
    return named and FILE_ENDING.search(str(path)) is None and not Path(path).exists()


def local_folder(
    path: str | Path, subfolder: str | None = None, files: tuple[str, ...] = PRIOR_FILES, **options: Any
) -> Path:
    """The folder of a prior or model: the path, or where it was downloaded to from a repository of that name.

    Arguments:
        path: A folder, or "owner/name".
        subfolder: A folder below it; of a repository nothing else is downloaded.
        files: Patterns of the files that are needed; by default a prior's.
        options: As for diffusers' `from_pretrained`; those of `HUB_OPTIONS` are heeded.

    Raises:
        FileNotFoundError: If it is neither a path nor a repository that can be reached.
    """
    below = "" if subfolder is None else f"{subfolder.strip('/')}/"
    if not is_hub_name(path):
        return Path(path, below)
    own = {name: options[name] for name in HUB_OPTIONS if name in options and name != "proxies"}
    patterns = [below + name for name in files]
    try:
        return Path(snapshot_download(str(path), allow_patterns=patterns, **own), below)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise not_found("prior", path, error) from error


def not_found(what: str, name: str | Path, error: Exception) -> FileNotFoundError:
    """The error for a name that is neither a path nor on the hub, in the hub's words if `error` was caused by it."""
    said = error if isinstance(error, HfHubHTTPError) else error.__cause__ or error
    lines = (line.strip() for line in str(said).splitlines())
    reason = " ".join([line for line in lines if line][:2])
    return FileNotFoundError(f"no {what} at {name}: there is no such folder, and on the hub: {reason}")


def upload(
    write: Callable[[Path], object],
    repo_id: str,
    *,
    card: str | None,
    private: bool | None,
    token: str | None,
    commit_message: str,
) -> str:
    """Uploads a folder; returns its address.

    Arguments:
        write: Makes the folder.
        repo_id: "owner/name".
        card: Text of its README.md; None to leave that as it is.
        private, token, commit_message: As in `huggingface_hub`.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as parent:
        folder, told = Path(parent, "upload"), UPLOADS.set(True)
        try:
            write(folder)
        finally:
            UPLOADS.reset(told)
        for path in folder.rglob(WRITTEN):
            path.unlink()  # it speaks of a folder that is replaced
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
        api.create_repo(repo_id, private=private, exist_ok=True)
        return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
