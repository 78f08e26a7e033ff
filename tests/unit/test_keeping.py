"""What a process shows of its work in Ray's dashboard, without Ray."""

from __future__ import annotations

import asyncio

import pytest

from cluster.keeping import Kept, Shown, title_of


@pytest.mark.parametrize(
    ("shards", "epochs", "title"),
    [
        ([], [], "Host 2 · 0 shards"),
        ([3], [4], "Host 2 · 1 shard · epoch 4"),
        (range(16), [4] * 16, "Host 2 · 16 shards · epoch 4"),
        ([1, 2, 3], [5, 4, 7], "Host 2 · 3 shards · epochs 4-7"),
    ],
)
def test_what_is_served_is_told_in_words(shards: list[int], epochs: list[int], title: str) -> None:
    assert title_of("Host 2", shards, epochs) == title


class Open(Kept):
    def _is_open(self) -> bool:
        return True


def showing(number: int) -> Kept:
    """A process that has shown so many things, without Ray."""
    kept = Open.__new__(Open)
    kept._shown, kept._shown_over = Shown("", number), asyncio.Event()
    return kept


async def serve(kept: Kept, number: int) -> asyncio.Task[None]:
    serving: asyncio.Task[None] = asyncio.ensure_future(Kept.serving(kept, number))  # type: ignore[operator]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return serving


async def test_what_is_shown_lasts_until_the_next_begins() -> None:
    kept = showing(1)
    first = await serve(kept, 1)
    assert not first.done()
    kept._shown = Shown("", 2)
    second = await serve(kept, 2)
    assert (first.done(), second.done()) == (True, False)
    second.cancel()


async def test_what_comes_late_is_not_shown_any_more() -> None:
    kept = showing(2)
    second = await serve(kept, 2)
    late = await serve(kept, 1)
    assert (late.done(), second.done()) == (True, False)
    second.cancel()
