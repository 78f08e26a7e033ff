"""Feeding many commands with a bounded number under way."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.errors import DomainError
from actors.wire import Receipt
from cluster.driving import Outcome, drive

RECEIPT = Receipt("id", "order-o-1", 1, 3, 1, "store", duplicate=False)


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_items_start_in_order_and_at_most_so_many_are_under_way() -> None:
    started: list[int] = []
    under_way_max = under_way = 0

    async def submit(number: int) -> Receipt:
        nonlocal under_way, under_way_max
        started.append(number)
        under_way += 1
        under_way_max = max(under_way_max, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        if number % 2:
            raise DomainError("odd")
        return RECEIPT

    outcomes: dict[int, Outcome] = {}
    assert await drive(submit, numbers(100), 7, outcomes.__setitem__)
    assert started == list(range(100))
    assert under_way_max == 7
    assert all(isinstance(outcomes[number], DomainError if number % 2 else Receipt) for number in range(100))


async def test_cancelled_it_takes_no_more_and_waits_for_what_is_under_way() -> None:
    answered, full = asyncio.Event(), asyncio.Event()
    outcomes: dict[int, Outcome] = {}
    started = []

    async def submit(number: int) -> Receipt:
        started.append(number)
        if len(started) == 5:
            full.set()
        await answered.wait()
        return RECEIPT

    driving = asyncio.create_task(drive(submit, numbers(100), 5, outcomes.__setitem__))
    await full.wait()
    driving.cancel()
    answered.set()
    assert await driving is False
    assert outcomes == dict.fromkeys(range(5), RECEIPT)


async def test_stopped_while_the_last_are_under_way_it_waits_for_them_too() -> None:
    answered, full = asyncio.Event(), asyncio.Event()
    outcomes: dict[int, Outcome] = {}

    async def submit(number: int) -> Receipt:
        if number == 2:
            full.set()
        await answered.wait()
        return RECEIPT

    driving = asyncio.create_task(drive(submit, numbers(3), 5, outcomes.__setitem__))
    await full.wait()
    await asyncio.sleep(0)  # all are taken
    driving.cancel()
    answered.set()
    assert await driving is False
    assert outcomes == dict.fromkeys(range(3), RECEIPT)


async def test_a_bug_in_submitting_is_raised() -> None:
    async def submit(number: int) -> Receipt:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await drive(submit, numbers(100), 5, lambda item, outcome: None)
