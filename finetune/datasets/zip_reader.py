"""Stream zip archives in constant memory, also if their headers lie about sizes.

The standard library's `ZipFile` keeps 600 bytes per member in every process that opens an archive. This module parses
the central directory itself (PKWARE's APPNOTE, sections 4.3 and 4.5.3) and leaves decompression to the library.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from stat import S_ISLNK
from typing import IO, NoReturn

from finetune.errors import InputError

LOCAL = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
ENTRY = struct.Struct("<4s4xHH4xIIIHHHH2xII")
END = struct.Struct("<4s8xII2x")
LOCATOR = struct.Struct("<4s4xQ4x")
END_64 = struct.Struct("<4s36xQQ")
MAX_COMMENT = 0xFFFF  # bytes
ZIP64_MARKER = 0xFFFFFFFF  # stands for a value in the zip64 extra field
UTF_8 = 0x800  # flag
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError)  # raised by decompressing a member
MAX_TEXT = 1 << 30  # bytes; COCO's captions take 92 million
MAX_LINE = 1 << 20  # bytes
MAX_INTEGER = 1 << 63  # of SQLite, exclusive
UNIX_MODE = 16  # bits by which the external attributes hold it shifted


class UnknownCompressionError(Exception):
    """The member's compression method is not supported; the message names it."""


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of the central directory. It is verified when the member is read."""

    name: str
    method: int
    crc: int
    compressed_size: int  # bytes
    size: int  # bytes
    offset: int  # of the local header, bytes
    is_link: bool = False


def members(archive: Path) -> Iterator[Member]:
    """Yield every member in the order of the central directory. Raises InputError if the directory is damaged."""
    with _open(archive) as file:
        start, directory_size = _find_directory(archive, file)
        length = file.seek(0, 2)
        file.seek(min(start, length))
        while file.tell() < start + directory_size:  # some writers truncate the number of entries to 16 bits
            fields = file.read(ENTRY.size)
            if len(fields) < ENTRY.size or not fields.startswith(b"PK\x01\x02"):
                _fail(archive, "its central directory is damaged")
            (_, flags, method, crc, compressed_size, size, *lengths, _, mode, offset) = ENTRY.unpack(fields)
            name_length, extra_length, comment_length = lengths
            name = file.read(name_length).decode("utf-8" if flags & UTF_8 else "cp437", errors="replace")
            extra = file.read(extra_length)
            size, compressed_size, offset = _resolve_zip64(extra, size, compressed_size, offset)
            if offset + compressed_size > length or size >= MAX_INTEGER:
                _fail(archive, "its central directory is damaged")
            file.seek(comment_length, 1)
            yield Member(name, method, crc, compressed_size, size, offset, S_ISLNK(mode >> UNIX_MODE))


def read_member(archive: Path, member: Member) -> bytes:
    """Return at most `member.size` bytes. Raises one of DAMAGED or UnknownCompressionError."""
    with _open(archive) as file:
        return _open_member(file, member).read(member.size)


@contextmanager
def open_text(archive: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a member for reading in parts, which keeps a decompression bomb from filling memory.

    Raises InputError if it is missing, too large or damaged, also while the block reads it.
    """
    found = next((member for member in members(archive) if member.name == name), None)
    if found is None:
        _fail(archive, f"contains no {name}")
    if found.size > MAX_TEXT:
        _fail(archive, f"{name} has {found.size} bytes, more than {MAX_TEXT}")
    try:
        with _open(archive) as file, BufferedReader(_open_member(file, found)) as text:
            yield text
    except (*DAMAGED, UnknownCompressionError) as error:
        _fail(archive, f"{name} is damaged ({str(error) or 'cut short'})")


def read_lines(archive: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of every line that is not blank.

    Raises InputError as `open_text` does, and for a line that is too long or not UTF-8.
    """
    with open_text(archive, name) as text:
        for number, line in enumerate(iter(lambda: text.readline(MAX_LINE), b""), 1):
            if len(line) == MAX_LINE:
                _fail(archive, f"{name}, line {number} has {MAX_LINE} bytes or more")
            try:
                decoded = line.decode("utf-8")
            except UnicodeDecodeError as error:
                _fail(archive, f"{name}, line {number} is not UTF-8 at byte {error.start}")
            if decoded.strip():
                yield number, decoded.rstrip("\r\n")


def _open_member(file: IO[bytes], member: Member) -> zipfile.ZipExtFile:
    # the library decompresses bzip2 and LZMA without a size limit, which a decompression bomb would exploit
    if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnknownCompressionError(f"compression method {member.method}")
    file.seek(member.offset)
    header = file.read(LOCAL.size)
    if len(header) < LOCAL.size or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile("no local header at the offset in the central directory")
    _, name_length, extra_length = LOCAL.unpack(header)
    file.seek(name_length + extra_length, 1)
    info = zipfile.ZipInfo(member.name)
    info.compress_type, info.CRC = member.method, member.crc
    info.compress_size, info.file_size = member.compressed_size, member.size
    return zipfile.ZipExtFile(file, "r", info)


def _find_directory(archive: Path, file: IO[bytes]) -> tuple[int, int]:
    """Return the offset and the size of the central directory in bytes."""
    length = file.seek(0, 2)
    tail_start = file.seek(max(0, length - END.size - MAX_COMMENT))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < END.size:
        file.seek(0)
        _fail(archive, "the zip file is cut short" if file.read(4) == b"PK\x03\x04" else "not a zip file")
    _, size, start = END.unpack_from(tail, at)
    file.seek(max(0, tail_start + at - LOCATOR.size))
    locator = file.read(LOCATOR.size)
    if locator.startswith(b"PK\x06\x07"):
        file.seek(min(LOCATOR.unpack(locator)[1], length))
        record = file.read(END_64.size)
        if len(record) < END_64.size or not record.startswith(b"PK\x06\x06"):
            _fail(archive, "its central directory is damaged")
        _, size, start = END_64.unpack(record)
    return start, size


def _resolve_zip64(extra: bytes, *values: int) -> list[int]:
    """Replace each value that is ZIP64_MARKER by the next one in the zip64 extra field."""
    wide, at = b"", 0
    while ZIP64_MARKER in values and not wide and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4 + length
        wide = extra[at - length : at] if kind == 1 else b""
    result = []
    for value in values:
        if value == ZIP64_MARKER and len(wide) >= 8:
            value = int.from_bytes(wide[:8], "little")
            wide = wide[8:]
        result.append(value)
    return result


@contextmanager
def _open(archive: Path) -> Iterator[IO[bytes]]:
    try:
        with archive.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{archive}: no such archive; run `dvc repro` to fetch it") from None
    except IsADirectoryError:
        _fail(archive, "is a folder, not a zip file")


def _fail(archive: Path, problem: str) -> NoReturn:
    raise InputError(
        f"{archive}: {problem}; correct its location or checksum under `fetch` in params.yaml and run `dvc repro`"
    )
