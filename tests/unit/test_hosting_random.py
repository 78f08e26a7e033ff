"""Random commands, copies and store failures against one host; the log and the answers must agree, whatever happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.commands import Command
from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, PromoteToVip
from actors.errors import CommandIdReused, DomainError
from actors.wire import Receipt
from store import EventrayError, OutcomeUnknown, StoreRejected, StoreUnavailable, open_store
from store.records import ShardAppend
from tests.hosts import HostUnderTest, host_on

CUSTOMERS = ["c-1", "c-2", "c-3"]


def command_of(kind: int, customer: str) -> Command:
    match kind:
        case 0:
            return CreateCustomer(customer_id=customer, name="Ada", email="ada@example.com")
        case 1:
            return PromoteToVip(customer_id=customer, reason="loyal")
        case 2:
            return ChangeEmail(customer_id=customer, email="new@example.com")
        case _:
            return CreateOrder(order_id=f"{customer}-{kind}", customer_id=customer, total_amount=Decimal(kind))


class Chaos:
    """Fails appends as a list of fates says: fine, locked, rejected, reply lost before or after the commit."""

    def __init__(self, fates: list[str]) -> None:
        self.fates = fates
        self.current = "fine"

    def before(self, _appends: Sequence[ShardAppend]) -> Exception | None:
        self.current = self.fates.pop() if self.fates else "fine"
        match self.current:
            case "locked":
                return StoreUnavailable("locked", True)
            case "rejected":
                return StoreRejected("a row that won't do")
            case "lost before":
                return OutcomeUnknown("no reply")
        return None

    def after(self, _appends: Sequence[ShardAppend]) -> Exception | None:
        return OutcomeUnknown("no reply") if self.current == "lost after" else None


FATES = st.lists(st.sampled_from(["fine", "fine", "locked", "rejected", "lost before", "lost after"]), max_size=12)
COMMANDS = st.tuples(st.integers(0, 5), st.sampled_from(CUSTOMERS), st.integers(0, 12), st.booleans())
CALLS = st.lists(st.lists(COMMANDS, min_size=1, max_size=6), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(calls=CALLS, fates=FATES)
def test_answers_and_log_agree_whatever_fails(calls: list[list[tuple[int, str, int, bool]]], fates: list[str]) -> None:
    asyncio.run(run_script(calls, fates))


async def run_script(calls: list[list[tuple[int, str, int, bool]]], fates: list[str]) -> None:
    store = await open_store("memory://", shards=2)
    async with host_on(store) as host:
        chaos = Chaos(fates)
        host.store.before, host.store.after = chaos.before, chaos.after
        sent: list[tuple[Command, str]] = []
        tasks = []
        for call in calls:
            messages = []
            for kind, customer, number, first_send in call:
                command_id = f"k-{number}"
                fresh = all(command_id != known for _, known in sent)
                command = command_of(kind, customer)
                sent.append((command, command_id))
                messages.append(host.message(command, command_id, first_send=first_send and fresh))
            tasks.append(asyncio.create_task(host.execute(*messages)))
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            answers = [answer for task in tasks for answer in await task]
        await check(host, sent, answers)
    await store.close()


async def check(host: HostUnderTest, sent: list[tuple[Command, str]], answers: list[Receipt | EventrayError]) -> None:
    log = await host.log()
    for shard in range(2):
        assert [r.position for r in log if r.shard == shard] == list(range(1, sum(r.shard == shard for r in log) + 1))
    for stream in {record.stream for record in log}:
        versions = [record.version for record in log if record.stream == stream]
        assert versions == list(range(1, len(versions) + 1))
    assert len(host.published) == len(set(host.published)), "an event was published twice"
    assert set(host.published) <= set(log), "what was published is not what is stored"
    caused = [(record.command_key, record.stream) for record in log if record.command_key is not None]
    assert len(caused) == len(set(caused)), "an id caused events twice on one stream"
    at = {(record.shard, record.position): record for record in log}
    fresh_receipts = []
    for (command, command_id), answer in zip(sent, answers, strict=True):
        assert isinstance(answer, Receipt | DomainError | CommandIdReused | StoreRejected), answer
        if not isinstance(answer, Receipt):
            continue
        stored = at.get((answer.shard, answer.position))
        assert stored is not None, "a receipt for a position that the log doesn't have"
        if (command_id, answer.stream) in caused:
            if json.loads(stored.metadata)["command_id"] != command_id:
                assert isinstance(command, ChangeEmail), "only that may change nothing, before its id causes events"
                assert not answer.duplicate
                continue
            assert (stored.stream, stored.version) == (answer.stream, answer.version)
            if not answer.duplicate:
                fresh_receipts.append((command_id, answer.stream))
    assert len(fresh_receipts) == len(set(fresh_receipts)), "two sendings were both told to be the first"
