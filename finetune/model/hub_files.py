"""Which files of a folder or of a hub's repository make up a model in diffusers layout."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its client's
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented as here

from finetune.errors import InputError
from finetune.fetch.source import GIT, Source

HUB = "hf://"
PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
SAFETY = ("feature_extractor", "safety_checker")  # the checker that Stable Diffusion 1 comes with: the demo runs it
CONFIGURATION = {".json", ".txt"}


def model_files(location: str, revision: str | None, sha256: dict[str, str]) -> list[Source]:
    """Of a folder or `hf://owner/name`: the configuration, and the weights that `sha256` names.

    Raises InputError when a file that makes up a model is missing, or the hub cannot be asked.
    """
    files = _list_hub(location, revision) if location.startswith(HUB) else _list_folder(Path(location))
    missing = {"model_index.json", *sha256} - files.keys()
    if missing:
        raise InputError(f"{location}: holds no {', '.join(sorted(missing))}; see fetch.base in params.yaml")
    pinned = {name: replace(files[name], checksum=f"sha256:{digest}") for name, digest in sha256.items()}
    parts = PARTS + (SAFETY if any(name.startswith("safety_checker/") for name in sha256) else ())
    configuration = {name: file for name, file in files.items() if _is_configuration(name, parts)}
    return [file for _, file in sorted({**configuration, **pinned}.items())]


def _list_folder(folder: Path) -> dict[str, Source]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: Source(name, (str(path),), checksum=None, size=path.stat().st_size) for name, path in files.items()}


def _list_hub(location: str, revision: str | None) -> dict[str, Source]:
    """As addresses: the hub's own client starts a download that was killed from its first byte again."""
    repository, api = location.removeprefix(HUB), HfApi()
    try:
        listed = list(api.list_repo_tree(repository, recursive=True, revision=revision))
    except (HTTPError, OfflineModeIsEnabled, HFValidationError) as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"{location} at revision {revision}: {said}; check both under fetch.base and the network"
        ) from None
    return {
        file.path: Source(
            file.path,
            (hf_hub_url(repository, file.path, revision=revision),),
            checksum=f"{GIT}:{file.blob_id}" if file.lfs is None else f"sha256:{file.lfs.sha256}",
            size=file.size,
            headers=build_hf_headers(),
        )
        for file in listed
        if isinstance(file, RepoFile)
    }


def _is_configuration(name: str, parts: tuple[str, ...]) -> bool:
    path = PurePosixPath(name)
    return name == "model_index.json" or (str(path.parent) in parts and path.suffix in CONFIGURATION)
