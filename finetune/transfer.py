"""Bytes from where they are to where they belong, checked on the way; a file that fails its check is never kept."""

import hashlib
import importlib.resources
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import requests
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its client's
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from tqdm import tqdm

from finetune.errors import InputError
from finetune.outputs import whole_directory, whole_file

CHUNK = 1 << 20  # bytes
TIMEOUT = (10, 60)  # seconds to connect, and without a byte
HUB = "hf://"
PACKAGE = "package:"
MODEL_PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
CONFIGURATION = {".json", ".txt"}


def fetch_file(location: str, destination: Path, checksum: str | None, size: int | None) -> None:
    """Copy a file from a path, an `http(s)://` URL or `package:<import name>/<file inside>`.

    Raises InputError when it is not there, does not arrive whole, or is not of that checksum (`sha256:...` or
    `md5:...`) or size in bytes.
    """
    algorithm, expected = _split(checksum)
    digest, received = hashlib.new(algorithm, usedforsecurity=False), 0
    with (
        whole_file(destination) as partial,
        _open(location) as (announced, chunks),
        partial.open("wb") as file,
        tqdm(desc=destination.name, total=announced or size, unit="B", unit_scale=True, disable=None) as progress,
    ):
        _check_size(location, announced, size)
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            progress.update(len(chunk))
        _check_size(location, received, size)
        _compare(location, algorithm, digest.hexdigest(), expected)


def fetch_model(location: str, revision: str | None, sha256: dict[str, str], destination: Path) -> None:
    """A model in diffusers layout from a folder or `hf://owner/name`: configuration, and the weights in `sha256`.

    Raises InputError as `fetch_file` does, and when a file that makes up a model is missing.
    """
    names = _list_hub(location, revision) if location.startswith(HUB) else _list_folder(Path(location))
    missing = {"model_index.json", *sha256} - set(names)
    if missing:
        raise InputError(f"{location}: holds no {', '.join(sorted(missing))}; see fetch.base in params.yaml")
    checksums = {name: f"sha256:{digest}" for name, digest in sha256.items()}
    with whole_directory(destination) as folder:
        for name in sorted(name for name in names if name in sha256 or _is_configuration(name)):
            if location.startswith(HUB):
                _download_from_hub(location, revision, name, folder)
                check_file(f"{location}/{name}", folder / name, checksums.get(name))
            else:
                fetch_file(str(Path(location) / name), folder / name, checksums.get(name), size=None)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's notes, with the time of day


def check_file(location: str, path: Path, checksum: str | None) -> None:
    """Raises InputError when the file at `path`, which came from `location`, is not what is expected."""
    algorithm, expected = _split(checksum)
    if expected is not None:
        with path.open("rb") as file:
            _compare(location, algorithm, hashlib.file_digest(file, algorithm).hexdigest(), expected)


@contextmanager
def _open(location: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    """The size in bytes, where it is known beforehand, and the content in chunks."""
    if location.startswith(("http://", "https://")):
        opened = _open_url(location)
    elif location.startswith(PACKAGE):
        opened = _open_packaged(location)
    elif "://" in location:
        raise InputError(f"{location}: not a location that can be fetched; give http(s)://, {PACKAGE} or a path")
    else:
        opened = _open_path(Path(location))
    with opened as content:
        yield content


@contextmanager
def _open_url(url: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    try:
        # identity: the bytes themselves, not a compressed form of them, so that Content-Length is their number
        with requests.get(url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}) as response:
            response.raise_for_status()
            length = response.headers.get("Content-Length")
            yield int(length) if length else None, response.iter_content(CHUNK)
    except requests.RequestException as error:
        raise InputError(f"{url}: {_one_line(error)}; check the address and the network and run again") from None


@contextmanager
def _open_packaged(location: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    package, _, inside = location.removeprefix(PACKAGE).partition("/")
    try:
        with importlib.resources.files(package).joinpath(inside).open("rb") as file:
            yield None, _chunks(file)
    except ModuleNotFoundError:
        raise InputError(f"{location}: the package {package} is not installed; run `make setup`") from None
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{location}: the package {package} holds no file {inside!r}") from None


@contextmanager
def _open_path(path: Path) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; correct its location under `fetch` in params.yaml")
    with path.open("rb") as file:
        yield path.stat().st_size, _chunks(file)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _list_folder(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _is_configuration(name: str) -> bool:
    path = PurePosixPath(name)
    return name == "model_index.json" or (str(path.parent) in MODEL_PARTS and path.suffix in CONFIGURATION)


def _list_hub(location: str, revision: str | None) -> list[str]:
    with _hub_errors(location, revision):
        return list(HfApi().list_repo_files(location.removeprefix(HUB), revision=revision))


def _download_from_hub(location: str, revision: str | None, name: str, folder: Path) -> None:
    with _hub_errors(location, revision):
        hf_hub_download(location.removeprefix(HUB), name, revision=revision, local_dir=folder)


@contextmanager
def _hub_errors(location: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, HFValidationError) as error:
        raise InputError(
            f"{location} at revision {revision}: {_one_line(error)}; check both under fetch.base and the network"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _split(checksum: str | None) -> tuple[str, str | None]:
    """Algorithm and digits; sha256 and None where there is nothing to compare with."""
    if checksum is None:
        return "sha256", None
    algorithm, digits = checksum.split(":")
    return algorithm, digits


def _compare(location: str, algorithm: str, found: str, expected: str | None) -> None:
    if expected not in (None, found):
        raise InputError(f"{location}: its {algorithm} is {found}, not the {expected} of params.yaml; nothing was kept")


def _check_size(location: str, found: int | None, expected: int | None) -> None:
    if None not in (found, expected) and found != expected:
        raise InputError(f"{location}: it has {found} bytes, not the {expected} of params.yaml; nothing was kept")
