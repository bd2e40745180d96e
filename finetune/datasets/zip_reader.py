"""Zip archives read as a stream: memory grows neither with an archive nor with what one claims about itself.

The standard library's `ZipFile` keeps 600 bytes per member in every process that opens an archive, so its table of
contents is walked here (PKWARE's APPNOTE, sections 4.3 and 4.5.3); unpacking is left to the library.
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
LONGEST_COMMENT = 0xFFFF  # bytes
MEANS_64_BIT = 0xFFFFFFFF
UTF_8 = 0x800  # flag
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError)  # what unpacking a member raises
LARGEST_TEXT = 1 << 30  # bytes; COCO's captions take 92 million
LONGEST_LINE = 1 << 20  # bytes
LARGEST_INTEGER = 1 << 63  # that a database holds
UNIX = 16  # bits that a file's Unix mode is shifted by


class UnknownCompressionError(Exception):
    """A member is packed in a way that is not unpacked here; the message names it."""


@dataclass(frozen=True, slots=True)
class Member:
    """What the table of contents says; only reading tells whether it is true."""

    name: str
    method: int
    crc: int
    packed: int  # bytes in the archive
    size: int  # bytes
    offset: int  # of its own header
    link: bool = False


def members(archive: Path) -> Iterator[Member]:
    """Every member in the order of the table of contents. Raises InputError for a table that is not whole."""
    with _opened(archive) as file:
        start, size_of_table = _table_of_contents(archive, file)
        length = file.seek(0, 2)
        file.seek(min(start, length))
        while file.tell() < start + size_of_table:  # not by its number of entries, which some writers cut to 16 bits
            fields = file.read(ENTRY.size)
            if len(fields) < ENTRY.size or not fields.startswith(b"PK\x01\x02"):
                _refuse(archive, "its table of contents is damaged")
            _, flags, method, crc, packed, size, name_length, extra_length, comment_length, _, mode, offset = (
                ENTRY.unpack(fields)
            )
            name = file.read(name_length).decode("utf-8" if flags & UTF_8 else "cp437", errors="replace")
            size, packed, offset = _wide(file.read(extra_length), size, packed, offset)
            if offset + packed > length or size >= LARGEST_INTEGER:
                _refuse(archive, "its table of contents is damaged")
            file.seek(comment_length, 1)
            yield Member(name, method, crc, packed, size, offset, S_ISLNK(mode >> UNIX))


def read_member(archive: Path, member: Member) -> bytes:
    """At most `member.size` bytes, whatever is packed there. Raises one of DAMAGED or UnknownCompressionError."""
    with _opened(archive) as file:
        return _unpacked(file, member).read(member.size)


@contextmanager
def open_text(archive: Path, name: str) -> Iterator[IO[bytes]]:
    """A member that must be there and whole, to be read a part at a time: only so is a bomb kept from going off.

    Raises InputError that names it.
    """
    found = next((member for member in members(archive) if member.name == name), None)
    if found is None:
        _refuse(archive, f"holds no {name}")
    if found.size > LARGEST_TEXT:
        _refuse(archive, f"{name} has {found.size} bytes, more than {LARGEST_TEXT}")
    try:
        with _opened(archive) as file, BufferedReader(_unpacked(file, found)) as text:
            yield text
    except (*DAMAGED, UnknownCompressionError) as error:
        _refuse(archive, f"{name} is damaged ({str(error) or 'cut short'})")


def read_lines(archive: Path, name: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers from 1. Raises InputError that names what is wrong."""
    with open_text(archive, name) as text:
        for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE), b""), 1):
            if len(line) == LONGEST_LINE:
                _refuse(archive, f"{name}, line {number} has {LONGEST_LINE} bytes or more")
            try:
                decoded = line.decode("utf-8")
            except UnicodeDecodeError as error:
                _refuse(archive, f"{name}, line {number} is not UTF-8 at byte {error.start}")
            if decoded.strip():
                yield number, decoded.rstrip("\r\n")


def _unpacked(file: IO[bytes], member: Member) -> zipfile.ZipExtFile:
    # bzip2 and LZMA are unpacked without a limit: a bomb would go off
    if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnknownCompressionError(f"compression method {member.method}")
    file.seek(member.offset)
    header = file.read(LOCAL.size)
    if len(header) < LOCAL.size or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile("no header where the table of contents says")
    _, name_length, extra_length = LOCAL.unpack(header)
    file.seek(name_length + extra_length, 1)
    info = zipfile.ZipInfo(member.name)
    info.compress_type, info.CRC = member.method, member.crc
    info.compress_size, info.file_size = member.packed, member.size
    return zipfile.ZipExtFile(file, "r", info)


def _table_of_contents(archive: Path, file: IO[bytes]) -> tuple[int, int]:
    """Where it starts and how long it is, in bytes."""
    length = file.seek(0, 2)
    tail_start = file.seek(max(0, length - END.size - LONGEST_COMMENT))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < END.size:
        file.seek(0)
        _refuse(archive, "the zip file is cut short" if file.read(4) == b"PK\x03\x04" else "not a zip file")
    _, size, start = END.unpack_from(tail, at)
    file.seek(max(0, tail_start + at - LOCATOR.size))
    locator = file.read(LOCATOR.size)
    if locator.startswith(b"PK\x06\x07"):
        file.seek(min(LOCATOR.unpack(locator)[1], length))
        record = file.read(END_64.size)
        if len(record) < END_64.size or not record.startswith(b"PK\x06\x06"):
            _refuse(archive, "its table of contents is damaged")
        _, size, start = END_64.unpack(record)
    return start, size


def _wide(extra: bytes, *values: int) -> list[int]:
    """The values with those that 32 bits cannot hold taken from the extra field, where they stand in this order."""
    wide, at = b"", 0
    while MEANS_64_BIT in values and not wide and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4 + length
        wide = extra[at - length : at] if kind == 1 else b""
    result = []
    for value in values:
        if value == MEANS_64_BIT and len(wide) >= 8:
            value = int.from_bytes(wide[:8], "little")
            wide = wide[8:]
        result.append(value)
    return result


@contextmanager
def _opened(archive: Path) -> Iterator[IO[bytes]]:
    try:
        with archive.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{archive}: no such archive; run `dvc repro` to fetch it") from None
    except IsADirectoryError:
        _refuse(archive, "a folder, not a zip file")


def _refuse(archive: Path, fault: str) -> NoReturn:
    raise InputError(
        f"{archive}: {fault}; correct its location or checksum under `fetch` in params.yaml and run `dvc repro`"
    )
