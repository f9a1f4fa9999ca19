"""Deletion vectors: which rows of a data file are gone, as every Delta reader understands it.

A vector is a set of row positions in a 64-bit roaring bitmap. A small one stands in the log entry itself; larger ones
of one commit share a file under ``_dv/``, because deltalake's full vacuum takes vector files in the root for orphans.

Sources: Delta protocol, "Deletion Vector Descriptor Schema", "Deletion Vector Format", "Deletion Vector File Storage
Format"; RoaringFormatSpec, "Extension for 64-bit implementations"; ZeroMQ RFC 32 (Z85).
"""

import base64
import struct
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from storage.errors import CorruptVectorError

_MAGIC = struct.pack("<i", 1681511377)
_FILE_VERSION = b"\x01"
_PREFIX = "_dv"
_UUID_LENGTH = 20  # characters of Z85 for 16 bytes
_INLINE_BYTES = 256  # larger vectors go to a file, so that log entries stay small

_B85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_TO_Z85, _FROM_Z85 = str.maketrans(_B85, _Z85), str.maketrans(_Z85, _B85)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Where a vector is. `storage` is "i" (inline), "u" (a file named by a UUID) or "p" (an absolute path).

    `size` is the length of the vector's bytes, `offset` where its length stands in the file (None inline).
    """

    storage: Literal["i", "u", "p"]
    place: str
    size: int
    cardinality: int
    offset: int | None = None

    @classmethod
    def from_action(cls, action: Mapping[str, Any]) -> "Descriptor":
        """Read the `deletionVector` of an `add` or `remove` action."""
        return cls(
            action["storageType"],
            action["pathOrInlineDv"],
            action["sizeInBytes"],
            action["cardinality"],
            action.get("offset"),
        )

    def action(self) -> dict[str, Any]:
        """Return the `deletionVector` of an `add` or `remove` action."""
        offset = {} if self.offset is None else {"offset": self.offset}
        return {
            "storageType": self.storage,
            "pathOrInlineDv": self.place,
            **offset,
            "sizeInBytes": self.size,
            "cardinality": self.cardinality,
        }

    @property
    def path(self) -> str | None:
        """The vector file relative to the table, None for an inline vector; an absolute path is returned as it is."""
        if self.storage == "i":
            return None
        if self.storage == "p":
            return self.place
        prefix, name = self.place[:-_UUID_LENGTH], uuid.UUID(bytes=_from_z85(self.place[-_UUID_LENGTH:])[:16])
        return f"{prefix}/deletion_vector_{name}.bin" if prefix else f"deletion_vector_{name}.bin"


@dataclass(frozen=True, slots=True)
class VectorFile:
    """A vector file to be written before the commit that refers to it."""

    path: str
    content: bytes


def encode(vectors: Mapping[str, BitMap64]) -> tuple[dict[str, Descriptor], VectorFile | None]:
    """Return a descriptor for each vector, by the same names, and the file of those too large to stand inline."""
    name = uuid.uuid4()
    place = _PREFIX + _to_z85(name.bytes)
    content = bytearray(_FILE_VERSION)
    descriptors = {}
    for key, vector in vectors.items():
        raw = _MAGIC + vector.serialize()
        if len(raw) <= _INLINE_BYTES:
            descriptors[key] = Descriptor("i", _to_z85(raw), len(raw), len(vector))
            continue
        descriptors[key] = Descriptor("u", place, len(raw), len(vector), offset=len(content))
        content += struct.pack(">i", len(raw)) + raw + struct.pack(">I", zlib.crc32(raw))
    if len(content) == len(_FILE_VERSION):
        return descriptors, None
    return descriptors, VectorFile(f"{_PREFIX}/deletion_vector_{name}.bin", bytes(content))


def decode(descriptor: Descriptor, content: bytes | None = None) -> BitMap64:
    """Return a vector; `content` is the whole vector file unless it stands inline. Raises CorruptVectorError."""
    raw = _inline(descriptor) if descriptor.storage == "i" else _from_file(descriptor, content or b"")
    if raw[: len(_MAGIC)] != _MAGIC:
        raise _corrupt(descriptor, f"received magic {raw[: len(_MAGIC)].hex()}, expected {_MAGIC.hex()}")
    try:
        vector = BitMap64.deserialize(raw[len(_MAGIC) :])
    except ValueError as error:
        raise _corrupt(descriptor, str(error)) from error
    if len(vector) != descriptor.cardinality:
        raise _corrupt(descriptor, f"received {len(vector)} positions, expected {descriptor.cardinality}")
    return vector


def row_numbers(vector: BitMap64) -> npt.NDArray[np.int64]:
    """Return the positions of a vector, ascending."""
    return np.frombuffer(vector.to_array(), np.uint64).astype(np.int64)


def _inline(descriptor: Descriptor) -> bytes:
    try:
        return _from_z85(descriptor.place)[: descriptor.size]
    except ValueError as error:
        raise _corrupt(descriptor, str(error)) from error


def _from_file(descriptor: Descriptor, content: bytes) -> bytes:
    start = (descriptor.offset or 0) + 4
    end = start + descriptor.size
    if len(content) < end + 4:
        raise _corrupt(descriptor, f"received {len(content)} bytes, expected at least {end + 4}")
    raw = content[start:end]
    if content[:1] != _FILE_VERSION:
        raise _corrupt(descriptor, f"received format version {content[0]}, expected 1")
    if struct.unpack(">i", content[start - 4 : start])[0] != descriptor.size:
        raise _corrupt(descriptor, f"the file does not hold {descriptor.size} bytes at {descriptor.offset}")
    if struct.unpack(">I", content[end : end + 4])[0] != zlib.crc32(raw):
        raise _corrupt(descriptor, "its checksum is wrong")
    return raw


def _corrupt(descriptor: Descriptor, problem: str) -> CorruptVectorError:
    return CorruptVectorError(
        f"deletion vector {descriptor.path or 'inline'}: {problem}. The table cannot be read without it; restore the "
        "file, or restore the table to an earlier version"
    )


def _to_z85(raw: bytes) -> str:
    padded = raw + b"\0" * (-len(raw) % 4)
    return base64.b85encode(padded).decode().translate(_TO_Z85)


def _from_z85(text: str) -> bytes:
    return base64.b85decode(text.translate(_FROM_Z85))
