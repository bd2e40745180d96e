"""List the files of a model in diffusers layout, in a folder or on the Hugging Face hub."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # re-exported from its HTTP client
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # the documented import

from finetune.errors import InputError
from finetune.fetch.source import GIT, Source

HUB = "hf://"
PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
SAFETY = ("feature_extractor", "safety_checker")  # Stable Diffusion 1 ships with a checker; the demo runs it
CONFIGURATION = {".json", ".txt"}


def model_files(location: str, revision: str | None, sha256: dict[str, str]) -> list[Source]:
    """List the configuration files, and the weights named in `sha256`. location: folder or `hf://owner/name`.

    Raises InputError if a file is missing or the hub cannot be reached.
    """
    files = _list_hub(location, revision) if location.startswith(HUB) else _list_folder(Path(location))
    missing = {"model_index.json", *sha256} - files.keys()
    if missing:
        raise InputError(f"{location}: {', '.join(sorted(missing))} is missing; see fetch.base in params.yaml")
    pinned = {name: replace(files[name], checksum=f"sha256:{digest}") for name, digest in sha256.items()}
    parts = PARTS + (SAFETY if any(name.startswith("safety_checker/") for name in sha256) else ())
    configuration = {name: file for name, file in files.items() if _is_configuration(name, parts)}
    return [file for _, file in sorted({**configuration, **pinned}.items())]


def _list_folder(folder: Path) -> dict[str, Source]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: Source(name, (str(path),), checksum=None, size=path.stat().st_size) for name, path in files.items()}


def _list_hub(location: str, revision: str | None) -> dict[str, Source]:
    """List files as URLs, because the hub's own client cannot resume a download after being killed."""
    repository, api = location.removeprefix(HUB), HfApi()
    try:
        entries = list(api.list_repo_tree(repository, recursive=True, revision=revision))
    except (HTTPError, OfflineModeIsEnabled, HFValidationError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{location} at revision {revision}: {reason}; check fetch.base and the network") from None
    return {
        file.path: Source(
            file.path,
            (hf_hub_url(repository, file.path, revision=revision),),
            checksum=f"{GIT}:{file.blob_id}" if file.lfs is None else f"sha256:{file.lfs.sha256}",
            size=file.size,
            headers=build_hf_headers(),
        )
        for file in entries
        if isinstance(file, RepoFile)
    }


def _is_configuration(name: str, parts: tuple[str, ...]) -> bool:
    path = PurePosixPath(name)
    return name == "model_index.json" or (str(path.parent) in parts and path.suffix in CONFIGURATION)
