"""One run of the torture, from starting the cluster to the verdict.

Not here: the parts (`ground.py`, `nemesis.py`, `watching.py`), the judging (`checker.py`), the words (`report.py`).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.postgres import Server, running_server
from tests.torture.checker import collect, judge, keep
from tests.torture.checks import Finding
from tests.torture.evidence import Evidence
from tests.torture.ground import Ground, kill_process, running_ground
from tests.torture.journal import Journal
from tests.torture.nemesis import Nemesis
from tests.torture.schedule import Fault, Strike, draw
from tests.torture.watching import Watch

SQLITE, POSTGRES = "sqlite", "postgres"
APP = "tests.integration.faulty_shop:app"
WARM_UP_S = 3.0
QUIET_WITHIN_S = 90.0
GONE_WITHIN_S = 30.0


class Outcome(NamedTuple):
    """All that a run came to."""

    evidence: Evidence
    findings: list[Finding]
    left_over: list[str]
    """Processes and actors that should not be there any more."""
    troubles: list[str]
    """What else went wrong: drivers that failed, shards that did not come to rest."""
    seen: Counter[str]
    """What hosts and projection hosts counted."""
    faults: Counter[Fault]
    missed: Counter[Fault]
    asked: tuple[Fault, ...]


async def torture(
    directory: Path, kind: str, seconds: float, seed: int, asked: tuple[Fault, ...], say: Callable[[str], None]
) -> Outcome:
    """Run it all, with the faults that are asked for; `directory` keeps what it leaves behind."""
    with _store(directory, kind) as (store, server):
        async with running_ground(directory, store, APP, seed) as ground:
            say(f"three nodes, {len(ground.drivers)} drivers, {kind}: {directory}")
            with Journal(directory / "faults.jsonl") as journal:
                nemesis = Nemesis(ground, journal, _assignments(store))
                nemesis.server = server
                watch = Watch(ground)
                watching = asyncio.create_task(watch.run())
                troubles = await _strike(ground, nemesis, draw(seed, seconds, asked), say)
                troubles += nemesis.troubles + await _come_to_rest(ground, store, say)
                await asyncio.sleep(1)
                watching.cancel()
            left_over = await _gone(ground.leftover_actors)
            say("ending the runtime")
            await ground.stop_runtime()
            left_over += await _gone(lambda: [f"actor {actor.name}" for actor in ground.actors()])
        left_over += await _gone(lambda: [f"process {process.pid} {process.name()}" for process in ground.processes()])
        for process in ground.processes():
            kill_process(process.pid)
        say("judging")
        evidence = await asyncio.to_thread(collect, directory)
        keep(evidence, directory)
        findings = await asyncio.to_thread(judge, evidence)
    seen = watch.counts()
    seen.update({"killed zombies": nemesis.zombies, "zombies that came back": nemesis.returned})
    return Outcome(evidence, findings, left_over, troubles, seen, nemesis.counts, nemesis.missed, asked)


@contextmanager
def _store(directory: Path, kind: str) -> Iterator[tuple[str, Server | None]]:
    if kind == SQLITE:
        yield f"sqlite:///{directory}/torture.db", None
        return
    with running_server() as server, server.schema() as url:
        yield url, server


async def _strike(ground: Ground, nemesis: Nemesis, strikes: list[Strike], say: Callable[[str], None]) -> list[str]:
    """Let the drivers warm up, then carry out all faults; drivers that end meanwhile are started anew."""
    await asyncio.sleep(WARM_UP_S)
    striking = asyncio.create_task(nemesis.run(strikes))
    began_s = told_s = time.monotonic()
    fallen: list[str] = []
    while not striking.done():
        await asyncio.wait({striking}, timeout=1.0)
        fallen += ground.replace_ended_drivers()
        if time.monotonic() - told_s > 10:
            told_s = time.monotonic()
            say(f"{told_s - began_s:.0f} s: {nemesis.counts.total()} of {len(strikes)} faults")
    striking.result()
    return [f"driver {name} ended by itself: see its log" for name in fallen]


async def _come_to_rest(ground: Ground, store: str, say: Callable[[str], None]) -> list[str]:
    """Stop the drivers, and wait until all that is derived from the log has come to its end."""
    say("quiet: the drivers finish what they have in hand")
    troubles = await ground.stop_drivers(QUIET_WITHIN_S)
    deadline_s = time.monotonic() + QUIET_WITHIN_S
    behind = await _behind(store)
    while behind and time.monotonic() < deadline_s:
        await asyncio.sleep(0.5)
        behind = await _behind(store)
    return troubles + [f"{name} is behind the log in the shards {shards}" for name, shards in behind.items()]


async def _gone(left: Callable[[], list[str]]) -> list[str]:
    """Wait until nothing is left, for some time; return what still is."""
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while (found := await asyncio.to_thread(left)) and time.monotonic() < deadline_s:
        await asyncio.sleep(0.5)
    return found


# --- looking into the store while it is used ---


async def _ask(store: str, query: str, read_model: bool = False) -> list[tuple[int, str]]:
    if store.startswith("postgresql"):
        import asyncpg

        async with asyncio.timeout(2):
            connection = await asyncpg.connect(store)
            try:
                return [tuple(row) for row in await connection.fetch(query)]
            finally:
                connection.terminate()
    path = Path(store.removeprefix("sqlite:///"))
    path = path.with_suffix(".read.db") if read_model else path

    def read() -> list[tuple[int, str]]:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()

    return await asyncio.to_thread(read)


def _assignments(store: str) -> Callable[[], Awaitable[dict[int, str]]]:
    async def assigned() -> dict[int, str]:
        """Which host each shard is assigned to; nothing while the store is away."""
        with suppress(Exception):
            return dict(await _ask(store, "SELECT shard, assigned_to FROM shards"))
        return {}

    return assigned


async def _behind(store: str) -> dict[str, list[int]]:
    """Return who has not come to the log's end, and in which shards."""
    heads = dict(await _ask(store, "SELECT shard, head FROM shards"))
    behind: dict[str, list[int]] = {}
    for name in ("CustomerProjection@", "LoyaltyProgramme@", "Mail"):
        query = (
            f"SELECT shard, position FROM checkpoints WHERE subscriber LIKE '{name}%' AND subscriber NOT LIKE '%@begin'"
        )
        taken = dict(await _ask(store, query, read_model=name != "Mail"))
        behind[name.removesuffix("@")] = [shard for shard, head in heads.items() if taken.get(shard, 0) != head]
    unsent = await _ask(store, "SELECT shard, position FROM process_manager_outbox", read_model=True)
    behind["LoyaltyProgramme's outbox"] = sorted({shard for shard, _ in unsent})
    return {name: shards for name, shards in behind.items() if shards}
