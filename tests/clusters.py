"""A cluster without Ray or a store, as a client sees it: hosts that take calls by the rules, and fail by a script.

What real hosts promise is kept here too: old numbers and other epochs are refused, an id is decided once, and where a
command of a shard gets an answer that may pass, so do all later ones of that shard in the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import Enum, auto

from actors.errors import NotOwner, Overloaded, StaleCall
from actors.wire import Call, CommandMessage, Receipt, pack_answers, unpack_call
from cluster.transport import HostGone
from store.errors import EventrayError, StoreUnavailable
from store.records import Route


class Fate(Enum):
    """What becomes of one call."""

    ANSWERED = auto()
    ANSWERED_LATE = auto()
    """The host is slow and alive."""
    GONE_BEFORE = auto()
    """The host could not be reached; nothing was executed."""
    GONE_AFTER = auto()
    """Executed, but the answer was lost."""
    GHOST = auto()
    """The call fails, and its copy is executed a while later, if the host still takes it."""
    OVERLOADED = auto()
    UNAVAILABLE = auto()
    """The store fails from the middle of each shard's commands on, for a moment."""
    MOVED = auto()
    """Every second shard of the call has moved to another host before it arrives."""
    STOPPED = auto()
    """The host stops: no answer at all, and its shards are moved one after the other."""
    RESUMED = auto()
    """As STOPPED, but the host resumes after that and takes the call."""
    DELAYED = auto()
    """Every second shard has moved, and the call reaches its slow host only long after that."""
    STALE = auto()
    SHORT = auto()
    """Executed, but an answer is missing."""
    GARBLED = auto()
    """Executed, but the answers can't be read."""
    BROKEN = auto()
    """The transport itself fails with an error that nobody foresaw."""


class FakeCluster:
    """Both the transport and the routes of a client."""

    def __init__(self, shards: int, hosts: Iterable[str], script: Iterable[Fate] = (), call_s: float = 0.002) -> None:
        self.hosts = list(hosts)
        self.owners = {shard: Route(shard, self.hosts[shard % len(self.hosts)], 1) for shard in range(shards)}
        self.calls: list[tuple[str, Call]] = []
        """All calls as they were sent, in order."""
        self.decided: list[CommandMessage] = []
        """Each command once, in the order of the decisions."""
        self.executed: dict[str, int] = {}
        """How often each id arrived at a host that took it."""
        self.under_way: dict[str, int] = dict.fromkeys(self.hosts, 0)
        self.under_way_most = 0
        self.routes_fail = 0
        """How many of the next readings of the routes fail."""
        self.readings = 0
        self._script = iter(script)
        self._call_s = call_s
        self._numbers: dict[tuple[str, str], int] = {}
        self._ghosts: set[asyncio.Task[None]] = set()

    async def routes(self) -> list[Route]:
        self.readings += 1
        await asyncio.sleep(0.001)
        if self.routes_fail:
            self.routes_fail -= 1
            raise StoreUnavailable("down", True)
        return list(self.owners.values())

    def script(self, fates: Iterable[Fate]) -> None:
        """What becomes of the next calls."""
        self._script = iter(fates)

    def move(self, shard: int, host: str | None = None) -> None:
        """Give a shard to that host, or to the next one, at a new epoch."""
        _, current, epoch = self.owners[shard]
        following = self.hosts[(self.hosts.index(current) + 1) % len(self.hosts)] if current else self.hosts[0]
        self.owners[shard] = Route(shard, host or following, epoch + 1)

    async def call(self, host: str, payload: bytes) -> bytes:
        call = unpack_call(payload)
        self.calls.append((host, call))
        self.under_way[host] += 1
        self.under_way_most = max(self.under_way_most, self.under_way[host])
        try:
            await asyncio.sleep(self._call_s)
            return await self._meet(next(self._script, Fate.ANSWERED), host, call)
        finally:
            self.under_way[host] -= 1

    async def _meet(self, fate: Fate, host: str, call: Call) -> bytes:
        match fate:
            case Fate.ANSWERED_LATE:
                await asyncio.sleep(2)
            case Fate.GONE_BEFORE:
                raise HostGone(host, "scripted")
            case Fate.GHOST:
                self._haunt(host, call)
                raise HostGone(host, "scripted")
            case Fate.OVERLOADED:
                return pack_answers([Overloaded(100)] * len(call.commands))
            case Fate.MOVED:
                for shard in sorted(call.epochs)[::2]:
                    self.move(shard)
            case Fate.DELAYED:
                for shard in sorted(call.epochs)[::2]:
                    self.move(shard)
                await asyncio.sleep(2)
            case Fate.STOPPED | Fate.RESUMED:
                for shard in sorted(call.epochs):
                    await asyncio.sleep(0.4)
                    self.move(shard)
                if fate is Fate.RESUMED:
                    self._haunt(host, call)
                await asyncio.get_running_loop().create_future()
            case Fate.STALE:
                raise StaleCall(call.number)
            case Fate.BROKEN:
                raise RuntimeError("scripted")
            case _:
                pass
        answers = self._execute(host, call, fate is Fate.UNAVAILABLE)
        match fate:
            case Fate.GONE_AFTER:
                raise HostGone(host, "scripted")
            case Fate.SHORT:
                return pack_answers(answers[:-1])
            case Fate.GARBLED:
                return b"\xc1"
            case _:
                return pack_answers(answers)

    def _haunt(self, host: str, call: Call) -> None:
        async def later() -> None:
            await asyncio.sleep(0.06)
            try:
                self._execute(host, call, False)
            except StaleCall:
                return

        ghost = asyncio.get_running_loop().create_task(later())
        self._ghosts.add(ghost)
        ghost.add_done_callback(self._ghosts.discard)

    def _execute(self, host: str, call: Call, unavailable: bool) -> list[Receipt | EventrayError]:
        if call.number <= self._numbers.get((host, call.session), 0):
            raise StaleCall(call.number)
        self._numbers[host, call.session] = call.number
        counts: dict[int, int] = {}
        answers: list[Receipt | EventrayError] = []
        for command in call.commands:
            counts[command.shard] = counts.get(command.shard, 0) + 1
            if self.owners[command.shard] != Route(command.shard, host, call.epochs[command.shard]):
                answers.append(NotOwner(command.shard, call.epochs[command.shard]))
            elif unavailable and counts[command.shard] > 1:
                answers.append(StoreUnavailable("locked", True))
            else:
                answers.append(self._decide(command))
        return answers

    def _decide(self, command: CommandMessage) -> Receipt:
        seen = self.executed.get(command.command_id, 0)
        self.executed[command.command_id] = seen + 1
        assert not (seen and command.first_send), "a retry that claims to be the first sending"
        if not seen:
            self.decided.append(command)
        return Receipt(command.command_id, "customer-1", 1, command.shard, len(self.decided), "store", bool(seen))
