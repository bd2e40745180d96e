"""What a dataset's archives hold, in one form for every dataset: which image, which captions, which split."""

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from finetune.datasets.zip_reader import DAMAGED, Member, UnknownCompressionError, members, read_member

Split = Literal["train", "validation"]
Caption = Annotated[str, Field(max_length=10_000)]  # characters; COCO's longest has 250
PICTURES = {".apng", ".bmp", ".gif", ".ico", ".jfif", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
LARGEST = 256 << 20  # bytes of an image's file

TABLES = """
CREATE TABLE archive (number INTEGER PRIMARY KEY, path);
CREATE TABLE member (archive, name, id, path, method, crc, packed, size, offset);
CREATE TABLE split (archive, name, split);
CREATE TABLE caption (archive, name, number, text);
CREATE TABLE dropped (reason, name);
"""
# Indexes come last: sorting once takes less time, and less memory, than keeping them in order meanwhile.
FINALIZE = """
CREATE INDEX member_name ON member (archive, name);
CREATE INDEX split_name ON split (archive, name);
CREATE INDEX caption_name ON caption (archive, name, number);

INSERT INTO dropped SELECT 'no_image', name FROM
    (SELECT archive, name FROM split UNION SELECT archive, name FROM caption) AS wanted
    WHERE NOT EXISTS (SELECT 1 FROM member WHERE (archive, name) = (wanted.archive, wanted.name));
INSERT INTO dropped SELECT 'no_caption', name FROM member
    WHERE NOT EXISTS (SELECT 1 FROM caption WHERE (archive, name) = (member.archive, member.name));
INSERT INTO dropped SELECT 'no_split', name FROM member
    WHERE EXISTS (SELECT 1 FROM caption WHERE (archive, name) = (member.archive, member.name))
    AND NOT EXISTS (SELECT 1 FROM split WHERE (archive, name) = (member.archive, member.name));

-- a name in two splits is held out: 'validation' sorts last
CREATE TABLE original AS
    SELECT *, shard_of(id) AS shard, row_number() OVER (PARTITION BY id ORDER BY split DESC, archive, place) AS rank
    FROM (
        SELECT member.*, member.rowid AS place, max(split) AS split FROM member JOIN split USING (archive, name)
        WHERE EXISTS (SELECT 1 FROM caption WHERE (archive, name) = (member.archive, member.name))
        GROUP BY member.rowid
    );
INSERT INTO dropped SELECT 'same_name', path FROM original WHERE rank > 1;
DELETE FROM original WHERE rank > 1;
CREATE INDEX original_shard ON original (split, shard, id);
"""


class DroppedError(Exception):
    """An image cannot be used; the message is the reason under which it is counted."""


@dataclass(frozen=True)
class SourceImage:
    """An image inside an archive, with its captions as their authors wrote them."""

    id: str
    split: Split
    captions: tuple[str, ...]
    archive: Path
    member: Member

    @property
    def name(self) -> str:
        return PurePosixPath(self.member.name).name

    def read(self) -> bytes:
        """The file's bytes.

        Raises DroppedError: `damaged_in_archive` where the archive's own checksum says so, `too_large`, or
        `unknown_compression`.
        """
        if self.member.size > LARGEST:
            raise DroppedError("too_large")
        try:
            return read_member(self.archive, self.member)
        except DAMAGED:
            raise DroppedError("damaged_in_archive") from None
        except UnknownCompressionError:
            raise DroppedError("unknown_compression") from None


class Catalog:
    """The usable originals of a dataset by shard, and the others by reason: a database in a file, for the memory that
    it takes does not grow with the number of images, and any process may read it.
    """

    def __init__(self, file: Path) -> None:
        new = not file.exists()
        self._db = sqlite3.connect(file)
        if new:
            self._db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {TABLES}")

    def add(
        self,
        archive: Path,
        name_of: Callable[[str], str | None],
        splits: Iterable[tuple[str, Split]],
        captions: Iterable[tuple[str, int, str]],
    ) -> None:
        """Bring an archive's images together with what belongs to their names: (name, split) and (name, number,
        caption), the captions of an image being ordered by number.

        name_of: from a member's path to the name; None for a path that has no business in an archive.
        """
        (number,) = self._db.execute(
            "INSERT INTO archive (path) VALUES (?) RETURNING number", [str(archive)]
        ).fetchone()
        for member in members(archive):
            path = PurePosixPath(member.name)
            if path.suffix.lower() not in PICTURES or "__MACOSX" in path.parts or path.name.startswith("."):
                continue
            name = None if member.link else name_of(member.name)
            if name is None:
                self._db.execute("INSERT INTO dropped VALUES ('unsafe_name', ?)", [member.name])
                continue
            place = (member.name, member.method, member.crc, member.packed, member.size, member.offset)
            self._db.execute(
                "INSERT INTO member VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, name, str(PurePosixPath(name).with_suffix("")), *place),
            )
        self._db.executemany("INSERT INTO split VALUES (?, ?, ?)", ((number, *row) for row in splits))
        self._db.executemany(
            "INSERT INTO caption VALUES (?, ?, ?, ?)", ((number, *row) for row in captions if row[-1].strip())
        )

    def finalize(self, shards: int) -> None:
        """All archives are added: spread their originals over `shards` shards per split.

        An id alone decides on the shard, so that an image more or less moves no other one.
        """
        self._db.create_function("shard_of", 1, lambda id_: _hash(id_) % shards, deterministic=True)
        self._db.executescript(FINALIZE)

    def shards(self) -> list[tuple[Split, int]]:
        """Those that hold anything, train first."""
        return self._db.execute("SELECT DISTINCT split, shard FROM original ORDER BY split, shard").fetchall()

    def originals(self, split: Split, shard: int) -> list[SourceImage]:
        """Those of one shard by id."""
        rows = self._db.execute(
            "SELECT id, archive, name, archive.path, original.path, method, crc, packed, size, offset "
            "FROM original JOIN archive ON archive = number WHERE (split, shard) = (?, ?) ORDER BY id",
            (split, shard),
        )
        return [
            SourceImage(id_, split, self._captions(archive, name), Path(path), Member(*member))
            for id_, archive, name, path, *member in rows
        ]

    def dropped(self) -> dict[str, list[str]]:
        """Names, sorted, by the reason for leaving them out."""
        result: dict[str, list[str]] = {}
        for reason, name in self._db.execute("SELECT reason, name FROM dropped ORDER BY reason, name"):
            result.setdefault(reason, []).append(name)
        return result

    def close(self) -> None:
        self._db.close()

    def _captions(self, archive: int, name: str) -> tuple[str, ...]:
        rows = self._db.execute(
            "SELECT text FROM caption WHERE (archive, name) = (?, ?) ORDER BY number", (archive, name)
        )
        return tuple(text for (text,) in rows)


def file_name(member: str) -> str:
    """The name of an image that is told by its file name, wherever in the archive it lies."""
    return PurePosixPath(member).name


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
