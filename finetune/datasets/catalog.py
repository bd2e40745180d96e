"""Catalog of a dataset's archives: every usable image with its captions and its split, in any format."""

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
IMAGE_SUFFIXES = {".apng", ".bmp", ".gif", ".ico", ".jfif", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
MAX_FILE_SIZE = 256 << 20  # bytes

TABLES = """
CREATE TABLE archive (number INTEGER PRIMARY KEY, path);
CREATE TABLE member (archive, name, id, path, method, crc, compressed_size, size, offset);
CREATE TABLE split (archive, name, split);
CREATE TABLE caption (archive, name, number, text);
CREATE TABLE dropped (reason, name);
"""
# Indexes are created after all inserts: sorting once takes less time and memory than updating them for every row.
FINALIZE = """
CREATE INDEX member_name ON member (archive, name);
CREATE INDEX split_name ON split (archive, name);
CREATE INDEX caption_name ON caption (archive, name, number);

INSERT INTO dropped SELECT 'no_image', name FROM
    (SELECT archive, name FROM split UNION SELECT archive, name FROM caption) AS listed
    WHERE NOT EXISTS (SELECT 1 FROM member WHERE (archive, name) = (listed.archive, listed.name));
INSERT INTO dropped SELECT 'no_caption', name FROM member
    WHERE NOT EXISTS (SELECT 1 FROM caption WHERE (archive, name) = (member.archive, member.name));
INSERT INTO dropped SELECT 'no_split', name FROM member
    WHERE EXISTS (SELECT 1 FROM caption WHERE (archive, name) = (member.archive, member.name))
    AND NOT EXISTS (SELECT 1 FROM split WHERE (archive, name) = (member.archive, member.name));

-- 'validation' sorts after 'train', so a name in both splits is a validation image
CREATE TABLE source_image AS
    SELECT *, shard_of(id) AS shard, row_number() OVER (PARTITION BY id ORDER BY split DESC, archive, place) AS rank
    FROM (
        SELECT member.*, member.rowid AS place, max(split) AS split FROM member JOIN split USING (archive, name)
        WHERE EXISTS (SELECT 1 FROM caption WHERE (archive, name) = (member.archive, member.name))
        GROUP BY member.rowid
    );
INSERT INTO dropped SELECT 'same_name', path FROM source_image WHERE rank > 1;
DELETE FROM source_image WHERE rank > 1;
CREATE INDEX source_image_shard ON source_image (split, shard, id);
"""


class DroppedError(Exception):
    """The image cannot be used. The message is the reason under which it is counted."""


@dataclass(frozen=True)
class SourceImage:
    """An image in an archive, with its captions unchanged."""

    id: str
    split: Split
    captions: tuple[str, ...]
    archive: Path
    member: Member

    @property
    def name(self) -> str:
        return PurePosixPath(self.member.name).name

    def read(self) -> bytes:
        """Return the file's bytes.

        Raises DroppedError: `damaged_in_archive` if the archive's checksum does not match, `too_large`, or
        `unknown_compression`.
        """
        if self.member.size > MAX_FILE_SIZE:
            raise DroppedError("too_large")
        try:
            return read_member(self.archive, self.member)
        except DAMAGED:
            raise DroppedError("damaged_in_archive") from None
        except UnknownCompressionError:
            raise DroppedError("unknown_compression") from None


class Catalog:
    """The usable source images of a dataset by shard, and the dropped ones by reason.

    An SQLite file keeps memory independent of the number of images and can be read by worker processes.
    """

    def __init__(self, file: Path) -> None:
        new = not file.exists()
        self._db = sqlite3.connect(file)
        if new:
            self._db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {TABLES}")

    def add(
        self,
        archive: Path,
        member_key: Callable[[str], str | None],
        splits: Iterable[tuple[str, Split]],
        captions: Iterable[tuple[str, int, str]],
    ) -> None:
        """Add an archive's images and what annotations say about them.

        member_key: maps a member's path to the name that annotations use, or to None for an unsafe path.
        splits: (name, split). captions: (name, number, text); an image's captions are ordered by number.
        """
        (number,) = self._db.execute(
            "INSERT INTO archive (path) VALUES (?) RETURNING number", [str(archive)]
        ).fetchone()
        for member in members(archive):
            path = PurePosixPath(member.name)
            if path.suffix.lower() not in IMAGE_SUFFIXES or "__MACOSX" in path.parts or path.name.startswith("."):
                continue
            name = None if member.is_link else member_key(member.name)
            if name is None:
                self._db.execute("INSERT INTO dropped VALUES ('unsafe_name', ?)", [member.name])
                continue
            entry = (member.name, member.method, member.crc, member.compressed_size, member.size, member.offset)
            self._db.execute(
                "INSERT INTO member VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, name, str(PurePosixPath(name).with_suffix("")), *entry),
            )
        self._db.executemany("INSERT INTO split VALUES (?, ?, ?)", ((number, *row) for row in splits))
        self._db.executemany(
            "INSERT INTO caption VALUES (?, ?, ?, ?)", ((number, *row) for row in captions if row[-1].strip())
        )

    def finalize(self, shards: int) -> None:
        """Match images, captions and splits, and assign each image to one of `shards` shards of its split.

        Call it once, after the last `add`. The shard depends on the id only, so adding an image moves no other.
        """
        self._db.create_function("shard_of", 1, lambda id_: _hash(id_) % shards, deterministic=True)
        self._db.executescript(FINALIZE)

    def shards(self) -> list[tuple[Split, int]]:
        """Return the split and number of every shard that is not empty, train first."""
        return self._db.execute("SELECT DISTINCT split, shard FROM source_image ORDER BY split, shard").fetchall()

    def source_images(self, split: Split, shard: int) -> list[SourceImage]:
        """Return the images of one shard, ordered by id."""
        rows = self._db.execute(
            "SELECT id, archive, name, archive.path, source_image.path, method, crc, compressed_size, size, offset "
            "FROM source_image JOIN archive ON archive = number WHERE (split, shard) = (?, ?) ORDER BY id",
            (split, shard),
        )
        return [
            SourceImage(id_, split, self._captions(archive, name), Path(path), Member(*member))
            for id_, archive, name, path, *member in rows
        ]

    def dropped(self) -> dict[str, list[str]]:
        """Return the names of the dropped images, sorted, by reason."""
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
    """Return the last part of a member's path: COCO and Flickr8k refer to images by file name only."""
    return PurePosixPath(member).name


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
