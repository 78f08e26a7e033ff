"""The client: takes commands in, at a bounded number, and gives each caller a future of its answer.

Ray-free, for one event loop, not thread-safe. Not here: how commands reach their hosts (`sending.py`), what they mean
(`actors/`), the Python API of users (`runtime.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque

from actors.errors import InvalidCommand, Overloaded
from actors.wire import Receipt
from cluster.lanes import Submission
from cluster.limits import ClientLimits
from cluster.routing import Routes
from cluster.sending import Sender
from cluster.transport import Transport
from store.errors import EventrayError, InvalidValue
from store.identity import checked_id, shard_of, uuid7_text
from store.values import shown

MESSAGE_FRAME_BYTES = 64
"""What a command's numbers and field marks take on the wire, about."""
PROMISED_MAX = 64
"""Places promised at a time, since nobody knows the size of what comes."""
TIMEOUT_MAX_S = 24 * 60 * 60
INT64_MAX = 2**63 - 1


class ClientClosed(EventrayError):
    """This client is closed: open the runtime again."""


class CommandClient:
    """Sends commands, and sees each one through to its answer."""

    def __init__(self, transport: Transport, routes: Routes, shards: int, limits: ClientLimits | None = None) -> None:
        """Made on the event loop that it serves, whose clock it goes by."""
        self._shards = shards
        self._limits = limits or ClientLimits()
        self._loop = asyncio.get_running_loop()
        self._sender = Sender(transport, routes, shards, self._limits, self._departed)
        self._lanes = self._sender.lanes
        self._entrants: deque[asyncio.Future[None]] = deque()
        """Who waits for room, first come first."""
        self._promised = 0
        """Places that are given to entrants who have not submitted yet."""
        self._place_given = False
        """Whether the one that runs now has been given a place."""
        self._emptied: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Commands that are queued or on their way."""
        return self._lanes.held

    @property
    def held_bytes(self) -> int:
        """What these commands take on the wire, about."""
        return self._lanes.held_bytes

    @property
    def closed(self) -> bool:
        """Whether it takes no more."""
        return self._closed

    @property
    def has_room(self) -> bool:
        """Whether `submit` would take one more now; also once it is closed, to say so."""
        return self._closed or (self._promised < PROMISED_MAX and not self._is_full())

    def submit(
        self,
        partition_key: str,
        command_type: str,
        data: str,
        command_id: str | None = None,
        *,
        expected_version: int | None = None,
        occurred_at: int | None = None,
        timeout_s: float | None = None,
        metadata: str = "",
    ) -> asyncio.Future[Receipt]:
        """Queue one command; its future gets the receipt, or the error that ended it.

        `data` and `metadata` are JSON objects (the latter may be empty), `occurred_at` microseconds since 1970. Without
        `command_id` one is drawn. Commands of one partition key are decided in the order of these calls. Cancelling the
        future takes a command back that was not sent yet; later it only ends the waiting.

        Raises at once, with nothing queued: InvalidCommand; Overloaded where the client holds as many commands, or
        bytes of them, as it may (await `room` before); ClientClosed. The future raises what the host says,
        CommandTimeout (HostsLost where no host survived it), or Overloaded where it met only full hosts in time.
        """
        if self._closed:
            raise ClientClosed
        if not self._place_given and self._is_full():
            raise Overloaded(int(self._limits.pause_min_s * 1000))
        if timeout_s is None:
            timeout_s = self._limits.deadline_s
        elif not 0 < timeout_s <= TIMEOUT_MAX_S:
            raise InvalidCommand("timeout_s", str(timeout_s), f"give seconds above 0, at most {TIMEOUT_MAX_S}")
        if expected_version is not None:
            _check_number("expected_version", expected_version, 0)
        if occurred_at is not None:
            _check_number("occurred_at", occurred_at, -INT64_MAX)
        submission = Submission(
            shard_of(partition_key, self._shards),
            command_type,
            uuid7_text() if command_id is None else _checked_id(command_id),
            command_id is None,
            data,
            expected_version,
            occurred_at,
            metadata,
            timeout_s,
            self._loop.time() + timeout_s,
            _size_bytes(command_type, data, metadata),
            self._loop.create_future(),
        )
        self._place_given = False
        self._sender.carry(submission)
        return submission.future

    async def room(self) -> None:
        """Wait until the client may take another command: the place is the caller's if it submits before it awaits.

        First come, first served. A place that is not used goes to the next one.
        """
        if self.has_room:
            return
        entrant = self._loop.create_future()
        self._entrants.append(entrant)
        try:
            await entrant
        except asyncio.CancelledError:
            if not entrant.cancelled():
                self._promised -= 1
                self._departed()
            raise
        self._promised -= 1
        self._place_given = True
        self._loop.call_soon(self._place_over)

    async def close(self, wait_s: float = 5.0) -> None:
        """Take no more, wait for what is under way, then fail the rest with CommandTimeout.

        Calling it twice is safe.
        """
        self._closed = True
        self._departed()
        try:
            if self._lanes.held:
                self._emptied = self._emptied or self._loop.create_future()
                await asyncio.wait([self._emptied], timeout=wait_s)
        finally:
            self._sender.close()

    def _is_full(self) -> bool:
        lanes, limits = self._lanes, self._limits
        return lanes.held + self._promised >= limits.in_flight_max or lanes.held_bytes >= limits.in_flight_bytes_max

    def _place_over(self) -> None:
        """A place was used, or won't be."""
        self._place_given = False
        self._departed()

    def _departed(self) -> None:
        """The client may hold fewer commands than before: let others in."""
        while self._entrants and self.has_room:
            entrant = self._entrants.popleft()
            if not entrant.done():
                self._promised += 1
                entrant.set_result(None)
        if self._emptied is not None and not self._lanes.held and not self._emptied.done():
            self._emptied.set_result(None)


def _size_bytes(command_type: str, data: str, metadata: str) -> int:
    """Return what a command takes on the wire, about; InvalidCommand if a text of it can't be sent."""
    if command_type.isascii() and data.isascii() and metadata.isascii():
        return MESSAGE_FRAME_BYTES + len(command_type) + len(data) + len(metadata)
    size_bytes = MESSAGE_FRAME_BYTES
    for field, text in (("command", command_type), ("data", data), ("metadata", metadata)):
        try:
            size_bytes += len(text.encode())
        except UnicodeEncodeError:
            raise InvalidCommand(field, ascii(text[:60]), "leave out lone surrogates") from None
    return size_bytes


def _checked_id(command_id: str) -> str:
    try:
        return checked_id("command_id", command_id)
    except InvalidValue as error:
        raise InvalidCommand(*error.args) from error


def _check_number(field: str, number: int, least: int) -> None:
    if type(number) is not int or not least <= number <= INT64_MAX:
        raise InvalidCommand(field, shown(number), f"give a whole number from {least} to {INT64_MAX}")
