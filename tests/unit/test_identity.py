"""Ids, shards and time-ordered ids."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import InvalidValue
from store.identity import checked_id, checked_stream, random_bytes, shard_of, uuid7, uuid7_bytes, uuid7_text


@pytest.mark.parametrize(
    ("key", "shard"),
    [("c-1", 62), ("00004", 44), ("", 0), ("123456789", 0xCBF43926 % 64), ("Zoë", 42), ("\U0001f600", 4)],
)
def test_the_shard_of_a_key_is_a_stored_format(key: str, shard: int) -> None:
    assert shard_of(key, 64) == shard


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 4096))
def test_a_shard_is_one_of_those_there_are(key: str, shards: int) -> None:
    assert 0 <= shard_of(key, shards) < shards


@pytest.mark.parametrize("value", ["a", "x" * 200, "é" * 100, "a b", "quote'\"", "\U0001f600"])
def test_ids_that_are_allowed(value: str) -> None:
    assert checked_id("customer_id", value) == value


ODD = ["", "x" * 201, "é" * 101, "nul\0", "tab\t", "delete\x7f", "next line\x85", "half\ud800"]


@pytest.mark.parametrize("value", [*ODD, 7, None, b"c-1"])
def test_ids_that_are_not(value: object) -> None:
    with pytest.raises(InvalidValue) as refused:
        checked_id("customer_id", value)
    assert refused.value.field == "customer_id"
    assert refused.value.remedy
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("value", ["customer-c-1", "customer--", "x" * 200 + "-" + "y" * 200])
def test_streams_that_are_allowed(value: str) -> None:
    assert checked_stream(value) == value


@pytest.mark.parametrize("value", [*(f"customer-{odd}" for odd in ODD), *(f"{odd}-1" for odd in ODD), "customer", 7])
def test_streams_that_are_not(value: object) -> None:
    with pytest.raises(InvalidValue) as refused:
        checked_stream(value)
    assert refused.value.field == "stream"
    assert refused.value.remedy
    assert str(refused.value).isprintable()


def test_a_drawn_id_is_a_version_7_uuid_of_its_time() -> None:
    drawn = uuid.UUID(bytes=uuid7_bytes(0x0123456789AB, b"\xff" * 10))
    assert (drawn.version, drawn.variant) == (7, uuid.RFC_4122)
    assert drawn.int >> 80 == 0x0123456789AB
    assert uuid.UUID(bytes=uuid7_bytes(0, bytes(10))).version == 7


@given(st.integers(0, 2**48 - 2), st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_ids_of_later_milliseconds_sort_after_earlier_ones(time_ms: int, one: bytes, other: bytes) -> None:
    assert uuid7_bytes(time_ms, one) < uuid7_bytes(time_ms + 1, other)


def test_drawn_ids_differ() -> None:
    assert len({uuid7() for _ in range(1000)}) == 1000


def test_an_id_drawn_as_text_is_one_of_now() -> None:
    before_ms = time.time_ns() // 1_000_000
    texts = [uuid7_text() for _ in range(2_000)]
    after_ms = time.time_ns() // 1_000_000
    drawn = [uuid.UUID(text) for text in texts]
    assert [str(each) for each in drawn] == texts
    assert {(each.version, each.variant) for each in drawn} == {(7, uuid.RFC_4122)}
    times_ms = [each.int >> 80 for each in drawn]
    assert times_ms == sorted(times_ms)
    assert before_ms <= times_ms[0] <= times_ms[-1] <= after_ms


def test_all_the_other_bits_of_an_id_drawn_as_text_are_random() -> None:
    seen_set = seen_unset = 0
    for _ in range(2_000):
        value = uuid.UUID(uuid7_text()).int
        seen_set, seen_unset = seen_set | value, seen_unset | ~value
    random_bits = 0xFFF << 64 | 0x3FFF << 48 | (1 << 48) - 1
    assert seen_set & seen_unset & random_bits == random_bits


def test_ids_drawn_as_text_never_repeat_in_threads() -> None:
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda _: [uuid7_text() for _ in range(2_000)], range(8)))
    ends = [text[14:] for part in parts for text in part]
    assert len(set(ends)) == len(ends)


def test_random_bytes_never_repeat_in_threads() -> None:
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda _: [random_bytes(10) for _ in range(2_000)], range(8)))
    drawn = [drawn for part in parts for drawn in part]
    assert len(set(drawn)) == len(drawn)


def test_a_forked_child_draws_other_bytes_than_its_parent() -> None:
    script = """
import os
from store.identity import random_bytes, uuid7_text
random_bytes(10), uuid7_text()
ours, theirs = os.pipe()
if not os.fork():
    os.write(theirs, random_bytes(10) + uuid7_text()[14:].encode())
    os._exit(0)
os.wait()
said = os.read(ours, 100)
print(len(said) == 32 and said[:10] != random_bytes(10) and said[10:] != uuid7_text()[14:].encode())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
