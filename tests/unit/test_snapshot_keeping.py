"""Snapshots of a host: written only once their events are stored, delaying nobody, and used by the next one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import structlog

from actors import Aggregate, Command, DomainError
from actors.registry import AggregateRegistry
from actors.repository import load_aggregate
from actors.snapshot_audit import SnapshotAuditor
from actors.snapshots import SnapshotCounts
from actors.wire import Receipt
from store import Event, EventStore, OutcomeUnknown, StoreRejected, StoreUnavailable, open_store
from store.audit import audit_shard
from store.identity import shard_of
from store.records import Histories, versions_restored
from tests.hosts import HostUnderTest, host_on, lost_reply, once

EVERY = 5


class Pay(Command):
    account_id: str
    amount: Decimal
    times: int = 1


class Refuse(Command):
    account_id: str


class Paid(Event):
    account_id: str
    amount: Decimal


class Account(Aggregate, snapshot_every=EVERY):
    total: Decimal = Decimal(0)
    largest: Decimal | None = None

    def pay(self, command: Pay) -> None:
        for _ in range(command.times):
            self.raise_event(Paid(account_id=self.aggregate_id, amount=command.amount))

    def refuse(self, command: Refuse) -> None:
        raise DomainError(f"{self.total} is all there is.")

    def on_paid(self, event: Paid) -> None:
        self.total += event.amount
        self.largest = max(self.largest or event.amount, event.amount)


REGISTRY = AggregateRegistry([Account])


@pytest.fixture
async def store() -> AsyncIterator[EventStore]:
    opened = await open_store("memory://", shards=4)
    yield opened
    await opened.close()


def pay(times: int = 1, account: str = "a-1") -> Pay:
    return Pay(account_id=account, amount=Decimal("1.5"), times=times)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def counts(host: HostUnderTest) -> SnapshotCounts:
    return host.core._snapshots.snapshots.counts


async def written(host: HostUnderTest, number: int = 1) -> None:
    await until(lambda: counts(host).written >= number)


async def total_told(host: HostUnderTest, account: str = "a-1") -> str:
    answer = await host.submit(Refuse(account_id=account), f"refused {host.numbers}")
    assert isinstance(answer, DomainError)
    return str(answer)


async def test_one_is_written_when_the_version_passes_a_multiple(store: EventStore) -> None:
    async with host_on(store, registry=REGISTRY) as host:
        await host.submit(pay(4), "k-1")
        assert counts(host).taken == 0
        await host.submit(pay(3), "k-2")
        await host.submit(pay(1), "k-3")
        await written(host)
    (snapshot,) = host.store.snapshots
    assert (snapshot.stream, snapshot.version) == ("account-a-1", 7)
    assert await store.read_snapshots(["account-a-1"]) == {"account-a-1": snapshot}
    assert counts(host) == SnapshotCounts(taken=1, written=1)


async def test_it_is_written_only_after_the_commit_and_no_answer_waits_for_it(store: EventStore) -> None:
    async with host_on(store, registry=REGISTRY) as host:
        host.store.open_gate.clear()
        receipt = asyncio.create_task(host.submit(pay(5), "k-1"))
        async with asyncio.timeout(5):
            await host.store.waiting.wait()
        assert counts(host).taken == 1
        await asyncio.sleep(0.05)
        assert host.store.snapshots == []
        host.store.snapshot_gate.clear()
        host.store.open_gate.set()
        assert isinstance(await receipt, Receipt)
        assert isinstance(await host.submit(pay(), "k-2"), Receipt)
        assert host.store.snapshots == []
        host.store.snapshot_gate.set()
        await written(host)
    assert [snapshot.version for snapshot in host.store.snapshots] == [5]


@pytest.mark.parametrize("error", [StoreUnavailable("full", False), StoreRejected("no")])
async def test_none_is_left_of_what_was_not_stored(store: EventStore, error: Exception) -> None:
    async with host_on(store, registry=REGISTRY) as host:
        host.store.before = lambda _appends: error
        assert isinstance(await host.submit(pay(7), "k-1"), type(error))
        host.store.before = lambda _appends: None
        assert counts(host).taken > 0
        await host.submit(pay(5), "k-2")
        await written(host)
    assert [snapshot.version for snapshot in host.store.snapshots] == [5]


async def test_one_of_a_lost_append_is_not_written_whether_or_not_it_was_stored(store: EventStore) -> None:
    async with host_on(store, registry=REGISTRY) as host:
        host.store.before = once(OutcomeUnknown("it may have been stored"))
        assert isinstance(await host.submit(pay(6), "k-1"), Receipt)
        await written(host)
        assert [snapshot.version for snapshot in host.store.snapshots] == [6]
        assert counts(host).taken == 2
        host.store.after = once(lost_reply())
        assert isinstance(await host.submit(pay(4), "k-2"), Receipt)
        await total_told(host)
        assert counts(host).taken == 3
    assert [snapshot.version for snapshot in host.store.snapshots] == [6]


async def test_none_is_left_of_a_state_that_was_rewound(store: EventStore) -> None:
    async with host_on(store, registry=REGISTRY) as host:
        host.store.before = lambda appends: (
            StoreRejected("no") if any(r.command_key == "k-1" for append in appends for r in append.records) else None
        )
        rejected, receipt = await host.execute(host.message(pay(3), "k-1"), host.message(pay(2), "k-2"))
        assert isinstance(rejected, StoreRejected)
        assert isinstance(receipt, Receipt)
        assert receipt.version == 2
        assert counts(host).taken > 0
    assert host.store.snapshots == []


async def test_none_is_written_by_a_host_that_was_fenced(store: EventStore) -> None:
    async with host_on(store, registry=REGISTRY) as host:
        shard = shard_of("a-1", store.shards)
        await store.claim("host-1", [shard])
        await host.submit(pay(5), "k-1")
        assert counts(host).taken == 1
    assert host.store.snapshots == []


async def test_a_failed_write_is_counted_and_said_and_nothing_else(store: EventStore) -> None:
    async with host_on(store, registry=REGISTRY) as host:
        host.store.before_snapshots = lambda: StoreUnavailable("the disk is full", False)
        with structlog.testing.capture_logs() as logs:
            assert isinstance(await host.submit(pay(5), "k-1"), Receipt)
            await until(lambda: counts(host).unwritten == 1)
        assert [line["reason"] for line in logs if line["event"] == "snapshots could not be written"]
        host.store.before_snapshots = lambda: None
        assert isinstance(await host.submit(pay(5), "k-2"), Receipt)
        await written(host)
    assert [snapshot.version for snapshot in host.store.snapshots] == [10]


async def fill(store: EventStore, events: int = 12) -> None:
    """Leave an account with so many events, and a snapshot after its tenth."""
    async with host_on(store, registry=REGISTRY) as host:
        await host.submit(pay(10), "fill")
        await host.submit(pay(events - 10), "fill more")
        await written(host)


async def test_a_long_stream_is_loaded_by_its_tail(store: EventStore) -> None:
    await fill(store)
    async with host_on(store, name="host-2", registry=REGISTRY) as host:
        assert await total_told(host) == "18.0 is all there is."
        assert host.store.reads == [{"account-a-1": 10}]
        assert counts(host) == SnapshotCounts(used=1)
        receipt = await host.submit(pay(), "k-1")
        assert isinstance(receipt, Receipt)
        assert receipt.version == 13


async def test_many_are_loaded_in_one_read(store: EventStore) -> None:
    await fill(store)
    async with host_on(store, name="host-2", registry=REGISTRY) as host:
        await host.execute(*(host.message(pay(account=f"a-{n}"), f"k-{n}") for n in range(1, 4)))
        assert host.store.reads == [{"account-a-1": 10, "account-a-2": 0, "account-a-3": 0}]


async def test_one_of_other_code_is_ignored_and_replaced(store: EventStore) -> None:
    await fill(store)
    (snapshot,) = (await store.read_snapshots(["account-a-1"])).values()
    await store.write_snapshots([snapshot._replace(fingerprint="other code", data="{")])
    async with host_on(store, name="host-2", registry=REGISTRY) as host:
        assert await total_told(host) == "18.0 is all there is."
        assert host.store.reads == [{"account-a-1": 0}]
        await written(host)
        assert counts(host) == SnapshotCounts(taken=1, ignored_fingerprint=1, written=1)
    assert (await store.read_snapshots(["account-a-1"]))["account-a-1"].version == 12


async def test_a_damaged_one_falls_back_to_all_events(store: EventStore) -> None:
    await fill(store)
    (snapshot,) = (await store.read_snapshots(["account-a-1"])).values()
    await store.write_snapshots([snapshot._replace(data=snapshot.data[:-1])])
    async with host_on(store, name="host-2", registry=REGISTRY) as host:
        with structlog.testing.capture_logs() as logs:
            assert await total_told(host) == "18.0 is all there is."
        assert [line["log_level"] for line in logs] == ["warning"]
        assert host.store.reads == [{"account-a-1": 10}, {"account-a-1": 0}]
        assert counts(host).ignored_damaged == 1


async def test_one_that_the_next_events_do_not_fit_falls_back_to_all_events(store: EventStore) -> None:
    await fill(store)
    (snapshot,) = (await store.read_snapshots(["account-a-1"])).values()
    broken = '{"version":8,"partition_key":"a-1","state":{"total":"Infinity","largest":"sNaN"}}'
    await store.write_snapshots([snapshot._replace(data=broken.replace("8", "10"), version=10)])
    async with host_on(store, name="host-2", registry=REGISTRY) as host:
        assert await total_told(host) == "18.0 is all there is."
        assert counts(host).used == 0
        assert counts(host).ignored_damaged == 1


async def test_time_travel_uses_one_at_or_below_the_version(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(store)
    read: list[int] = []
    read_stream, read_histories = store.read_stream, store.read_histories

    async def watched(stream: str, after_version: int, limit: int) -> list[object]:
        read.append(after_version)
        return list(await read_stream(stream, after_version, limit))

    async def watched_histories(fingerprints: dict[str, str | None], limit: int | None = None) -> Histories:
        histories = await read_histories(fingerprints, limit)
        read.extend(versions_restored(fingerprints, histories.snapshots).values())
        return histories

    monkeypatch.setattr(store, "read_stream", watched)
    monkeypatch.setattr(store, "read_histories", watched_histories)
    for version, expected in {12: ("18.0", [10]), 10: ("15.0", []), 9: ("13.5", [0]), None: ("18.0", [10])}.items():
        read.clear()
        account = await load_aggregate(store, REGISTRY.events, Account, "a-1", version=version)
        assert (account.version, str(account.total), read) == (version or 12, *expected)


async def found_in(store: EventStore) -> list[tuple[str, str | None, int | None]]:
    auditor = SnapshotAuditor(store, REGISTRY)
    audits = [
        await audit_shard(store, REGISTRY.events, shard, lambda _count: None, auditor.findings)
        for shard in range(store.shards)
    ]
    return [
        (f"{finding.check}: {finding.problem}", finding.stream, finding.version)
        for a in audits
        for finding in a.findings
    ]


async def test_the_audit_compares_each_snapshot_with_the_fold(store: EventStore) -> None:
    await fill(store)
    (sound,) = (await store.read_snapshots(["account-a-1"])).values()
    assert await found_in(store) == []
    assert sound.data.count('"15.0"') == 1
    damages = {
        sound._replace(data=sound.data.replace('"15.0"', '"15.5"')): "total is not what the events fold to",
        sound._replace(data=sound.data.replace('"a-1"', '"a-2"')): "partition_key is not what the events fold to",
        sound._replace(version=11): "it can't be decoded: its data are of version 10",
    }
    for damaged, problem in damages.items():
        await store.write_snapshots([damaged])
        assert await found_in(store) == [(f"snapshot: {problem}", "account-a-1", damaged.version)]
        await store.write_snapshots([damaged._replace(fingerprint="other code")])
        assert await found_in(store) == []


@pytest.mark.parametrize(
    "damage", ["data = x'FF7B'", "data = CAST(x'FF7B' AS TEXT)", "version = 'ten'", "fingerprint = x'FF'"]
)
async def test_what_no_text_can_hold_in_a_file_falls_back_to_all_events(damage: str, tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/damaged.db", shards=4)
    await fill(store)
    with closing(sqlite3.connect(tmp_path / "damaged.db")) as connection, connection:
        assert connection.execute(f"UPDATE snapshots SET {damage}").rowcount == 1
    async with host_on(store, name="host-2", registry=REGISTRY) as host:
        assert await total_told(host) == "18.0 is all there is."
        assert counts(host).used == 0
    assert (await load_aggregate(store, REGISTRY.events, Account, "a-1", version=11)).version == 11
    await store.close()
