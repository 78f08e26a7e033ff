"""Names of things: which ids are allowed, which shard a key belongs to, and time-ordered ids.

Pure but for `uuid7`, which reads the clock and the system's random numbers. Not here: what the ids identify.
"""

from __future__ import annotations

import os
import threading
import time
import unicodedata
import uuid
import zlib
from functools import lru_cache

from store.errors import InvalidValue
from store.values import shown

ID_SIZE_MAX_BYTES = 200
_VERSION_7 = 0x7 << 76 | 0b10 << 62
"""The bits of version and variant."""
_LOW_62_BITS = (1 << 62) - 1
_VARIANT_DIGITS = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
"""The variant's digit, by a random one."""
RANDOM_POOL_BYTES = 4096


class _RandomPool(threading.local):
    """Random bytes of the system's, asked for by the page: a call for each id would cost more than the id."""

    def __init__(self) -> None:
        self.page, self.used = b"", 0


_pool = _RandomPool()
_ends: list[str] = []
"""Ends of ids that nobody has drawn yet. Threads share them: taking one is a single step of the interpreter's."""


def _forget_pool() -> None:
    """A forked child must not draw what its parent draws."""
    global _pool
    _pool = _RandomPool()
    _ends.clear()


os.register_at_fork(after_in_child=_forget_pool)


def random_bytes(count: int) -> bytes:
    """Return `count` random bytes of the system's, never returned before in this process or one that it forked."""
    pool = _pool
    start = pool.used
    if start + count > len(pool.page):
        pool.page, start = os.urandom(max(RANDOM_POOL_BYTES, count)), 0
    pool.used = start + count
    return pool.page[start : start + count]


def shard_of(partition_key: str, shards: int) -> int:
    """Return the shard of a key: crc32 of its UTF-8 bytes modulo `shards`. A stored format: it never changes."""
    return zlib.crc32(partition_key.encode()) % shards


def checked_id(field: str, value: object) -> str:
    """Return `value` if it may name a thing in the store.

    Raises InvalidValue if it is no text, empty, longer than 200 UTF-8 bytes, or holds control characters or lone
    surrogates.
    """
    if not isinstance(value, str):
        raise InvalidValue(field, shown(value), f"give a text, not {type(value).__name__}")
    if value.isascii() and value.isprintable() and 0 < len(value) <= ID_SIZE_MAX_BYTES:
        return value
    if not value:
        raise InvalidValue(field, "''", "give an id of at least one character")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise InvalidValue(field, shown(value), "leave out control characters (NUL too) and lone surrogates")
    if len(value.encode()) > ID_SIZE_MAX_BYTES:
        raise InvalidValue(field, shown(value), f"use an id of at most {ID_SIZE_MAX_BYTES} bytes in UTF-8")
    return value


def checked_stream(stream: object) -> str:
    """Return `stream` if it may name a stream: category-id, each of them as `checked_id` says. Raises InvalidValue."""
    category, dash, aggregate_id = stream.partition("-") if isinstance(stream, str) else ("", "", "")
    if not (category and dash and aggregate_id):
        raise InvalidValue("stream", shown(stream), "give category-id, as in customer-00004")
    return f"{checked_id('stream', category)}-{checked_id('stream', aggregate_id)}"


def uuid7() -> uuid.UUID:
    """Draw a time-ordered id (RFC 9562, version 7): ids of later milliseconds sort after earlier ones."""
    return uuid.UUID(bytes=uuid7_bytes(time.time_ns() // 1_000_000, random_bytes(10)))


def uuid7_text() -> str:
    """Draw an id as `uuid7` does, as text. Random ends are formatted many at a time, since every command needs one."""
    try:
        end = _ends.pop()
    except IndexError:
        made = _new_ends()
        end = made.pop()
        _ends.extend(made)
    return _time_digits(time.time_ns() // 1_000_000) + end


def uuid7_bytes(time_ms: int, random: bytes) -> bytes:
    """Lay out a version 7 UUID from a Unix time in milliseconds and ten random bytes."""
    drawn = int.from_bytes(random)
    value = time_ms << 80 | _VERSION_7 | (drawn >> 64 & 0xFFF) << 64 | drawn & _LOW_62_BITS
    return value.to_bytes(16)


@lru_cache(maxsize=1)
def _time_digits(time_ms: int) -> str:
    """Return what version 7 UUIDs of a millisecond begin with. Commands come in bursts, many in one."""
    digits = f"{time_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _new_ends() -> list[str]:
    """Return what stands behind the time in version 7 UUIDs: version, variant and random digits."""
    digits = os.urandom(RANDOM_POOL_BYTES).hex()
    return [
        f"-7{digits[at : at + 3]}-{_VARIANT_DIGITS[digits[at + 3]]}{digits[at + 4 : at + 7]}-{digits[at + 7 : at + 19]}"
        for at in range(0, len(digits) - 18, 19)
    ]
