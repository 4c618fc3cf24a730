"""Makes bodies small at rest: zstd, primed with a dictionary of what chat logs and their JSON are full of.

On messages of 200 bytes that is worth a third, on a cart of 1 KB two thirds, for 1 to 3 us. A packed body starts with byte 1,
one that was packed for a way on which only text goes with byte 2; any other body is stored as it is (behind a byte 0 in the rare
case that it starts with one of these itself). The dictionary is part of the format and must never change;
tools/train_dictionary.py says how it was made.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from threading import local

import zstandard

from .shipped import read_file

SMALLEST = 48  # shorter bodies gain nothing

MARKS = (b"\0", b"\1", b"\2")
"""What a stored body begins with that is not the body itself."""

_WORDS = zstandard.ZstdCompressionDict(read_file("chat.zdict"))
_PLAIN = zstandard.FORMAT_ZSTD1_MAGICLESS


class _Tools(local):
    """zstd contexts may not be shared by threads."""

    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            1, format=_PLAIN, write_content_size=True, write_checksum=False, write_dict_id=False
        )
        self.pack = zstandard.ZstdCompressor(dict_data=_WORDS, compression_params=parameters).compress
        self.unpack = zstandard.ZstdDecompressor(dict_data=_WORDS, format=_PLAIN).decompress


_tools = _Tools()


def pack(body: bytes) -> bytes:
    """Return the stored form of *body*."""
    if len(body) >= SMALLEST:
        packed = _tools.pack(body)
        if len(packed) + 1 < len(body):
            return b"\1" + packed
    return b"\0" + body if body[:1] in MARKS else body


def pack_text(body: bytes) -> bytes:
    """Return the stored form of *body* as UTF-8 text, for a way on which nothing else goes; `unpack` reads it."""
    return b"\2" + b2a_base64(pack(body), newline=False)


def unpack(stored: bytes) -> bytes:
    """Return the body that `pack` was given; a damaged one comes back as something that no checksum fits."""
    if stored[:1] == b"\1":
        try:
            return _tools.unpack(stored[1:])
        except (zstandard.ZstdError, MemoryError):  # a damaged head may ask for any size
            return stored
    if stored[:1] == b"\2":
        try:
            return unpack(a2b_base64(stored[1:], strict_mode=True))
        except (Error, RecursionError):
            return stored
    return stored[1:] if stored[:1] == b"\0" else stored
