"""One driver of the torture: a process that joins the runtime, submits a shop's commands, and journals all it sees.

What it submits is drawn from a seed: lone commands and several of one customer at once, retries under the same id
(at once, after the answer, after a lost one), ids used again for something else, expected versions, and reads after
receipts. All drivers share their customers, so they get in each other's way. A driver whose predecessor was killed
first sends again what that one left unanswered. Not here: who starts and kills drivers (`ground.py`).

`python -m tests.torture.driver SETTINGS`, a JSON object with the fields of `DriverPlan`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from actors.commands import Command
from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, DeactivateCustomer, PromoteToVip
from actors.wire import Receipt
from cluster import Runtime
from cluster.operations import Operations
from cluster.settings import Settings
from projections.customers import CustomerProjection
from projections.errors import ConsistencyTimeout
from store.errors import EventrayError, StoreUnavailable
from tests.torture.journal import Journal, read_journal

COMMANDS: dict[str, type[Command]] = {
    command.__name__: command
    for command in (CreateCustomer, ChangeEmail, PromoteToVip, DeactivateCustomer, CreateOrder)
}
LOSSES = ("a call failed", "shards have moved")
"""How the client's log lines begin that tell of a call whose answer was lost."""
TIMEOUTS_S = (3.0, 10.0, 30.0, 30.0)
CUSTOMERS_PER_S = 2.0
READ_FIELDS = ("name", "email", "type", "status", "total_orders")
PAUSE_MEAN_S = 0.12


@dataclass(frozen=True)
class DriverPlan:
    """What a driver is told."""

    name: str
    store: str
    address: str
    app: str
    directory: str
    seed: str
    began_s: float
    """When the run began, on the monotonic clock: how many customers there are goes by it."""
    workers: int
    predecessor: str = ""

    @property
    def journal(self) -> Path:
        return Path(self.directory, f"driver-{self.name}.jsonl")

    @property
    def stop_file(self) -> Path:
        """Once it is there, all drivers finish what they have in hand."""
        return Path(self.directory, "stop")

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Driver:
    """The workers of one process."""

    def __init__(self, plan: DriverPlan, runtime: Operations, journal: Journal) -> None:
        self._plan = plan
        self._runtime = runtime
        self._journal = journal
        self._random = random.Random(plan.seed)
        self._sendings = 0
        self._readings = 0
        self._ids = 0
        self._versions: dict[str, int] = {}
        """The last version of each stream that a receipt told."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until the stop file is there, and until all is answered."""
        if self._plan.predecessor:
            await self._recover(Path(self._plan.directory, f"driver-{self._plan.predecessor}.jsonl"))
        await asyncio.gather(*(self._work() for _ in range(self._plan.workers)))

    async def _recover(self, journal: Path) -> None:
        """Send again, under the same ids, what a killed predecessor has no answer to."""
        lines = read_journal(journal)
        answered = {line["n"] for line in lines if line["do"] in ("receipt", "failed")}
        open_ones = [line for line in lines if line["do"] == "send" and line["n"] not in answered]
        await asyncio.gather(
            *(self._submit(line["kind"], line["fields"], line["id"], line["expected_version"]) for line in open_ones)
        )

    async def _work(self) -> None:
        while not self._plan.stop_file.exists():
            await asyncio.sleep(self._random.expovariate(1 / PAUSE_MEAN_S))
            draw = self._random.random()
            if draw < 0.45:
                await self._one()
            elif draw < 0.75:
                await self._together()
            elif draw < 0.87:
                await self._repeated()
            elif draw < 0.90:
                await self._id_used_again()
            elif draw < 0.94:
                await self._expecting()
            else:
                await self._read_back()

    # --- what it does ---

    async def _one(self) -> Receipt | None:
        return await self._submit(*self._drawn(self._customer()))

    async def _together(self) -> None:
        """Several commands of one customer, under way together."""
        customer = self._customer()
        drawn = [self._drawn(customer) for _ in range(self._random.randint(2, 6))]
        if self._random.random() < 0.2:
            drawn.append(self._creation(customer))  # behind what needs it
        await asyncio.gather(*(self._submit(*each) for each in drawn))

    async def _repeated(self) -> None:
        """The same command under the same id: at once, or after the answer."""
        kind, fields = self._drawn(self._customer())
        command_id = self._new_id()
        if self._random.random() < 0.5:
            await asyncio.gather(*(self._submit(kind, fields, command_id) for _ in range(2)))
        else:
            await self._submit(kind, fields, command_id)
            await self._submit(kind, fields, command_id)

    async def _id_used_again(self) -> None:
        """Another order under the id of one."""
        kind, fields = self._order(self._customer())
        command_id = self._new_id()
        await self._submit(kind, fields, command_id)
        await self._submit(kind, {**fields, "total_amount": "0.01"}, command_id)

    async def _expecting(self) -> None:
        """A change that expects the version last seen, or one before."""
        customer = self._customer()
        seen = self._versions.get(f"customer-{customer}", 0)
        email = f"{self._new_id()}@example.com"
        await self._submit(
            "ChangeEmail", {"customer_id": customer, "email": email}, None, max(0, seen - self._random.randint(0, 1))
        )

    async def _read_back(self) -> None:
        """A row, read after a receipt."""
        customer = self._customer()
        receipt = await self._submit(*self._order(customer))
        if receipt is None:
            return
        number, self._readings = self._readings, self._readings + 1
        self._journal.write("query", q=number, key=customer, **_told(receipt))
        try:
            row = await self._runtime.query(CustomerProjection, customer, after=receipt, timeout_s=10)
        except ConsistencyTimeout:
            return  # allowed under faults: it says so
        except EventrayError as error:
            self._journal.write("unread", q=number, error=type(error).__name__, message=str(error))
            return
        read = None if row is None else {**{name: row[name] for name in READ_FIELDS}}
        if row is not None and read is not None:
            read["total_spent"] = str(row["total_spent"])
        self._journal.write("row", q=number, row=read)

    # --- commands ---

    def _newest(self) -> int:
        return int((time.monotonic() - self._plan.began_s) * CUSTOMERS_PER_S)

    def _customer(self) -> str:
        """One of the customers of late, mostly; the newest may not be there yet."""
        newest = self._newest()
        number = newest - int(self._random.expovariate(1 / 30))
        return f"c-{number if number >= 0 else self._random.randint(0, newest)}"

    def _drawn(self, customer: str) -> tuple[str, dict[str, str]]:
        draw = self._random.random()
        if draw < (0.5 if customer == f"c-{self._newest()}" else 0.05):
            return self._creation(customer)
        draw = self._random.random()
        if draw < 0.06:
            return "PromoteToVip", {"customer_id": customer, "reason": self._new_id()}
        if draw < 0.2:
            return "ChangeEmail", {"customer_id": customer, "email": f"{self._random.randint(1, 3)}@example.com"}
        if draw < 0.201:
            return "DeactivateCustomer", {"customer_id": customer, "reason": ""}
        return self._order(customer)

    def _creation(self, customer: str) -> tuple[str, dict[str, str]]:
        return "CreateCustomer", {"customer_id": customer, "name": self._new_id(), "email": "1@example.com"}

    def _order(self, customer: str) -> tuple[str, dict[str, str]]:
        amount = f"{Decimal(self._random.randint(0, 9999)).scaleb(-2)}"
        return "CreateOrder", {"order_id": self._new_id(), "customer_id": customer, "total_amount": amount}

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._plan.name}-{self._ids}"

    # --- submitting ---

    async def _submit(
        self, kind: str, fields: dict[str, str], command_id: str | None = None, expected_version: int | None = None
    ) -> Receipt | None:
        """Submit a command; where its outcome stays unknown, mostly once more under its id."""
        command_id = command_id or self._new_id()
        while True:
            receipt, known = await self._send(kind, fields, command_id, expected_version)
            if known or self._plan.stop_file.exists() or self._random.random() < 0.2:
                return receipt

    async def _send(
        self, kind: str, fields: dict[str, str], command_id: str, expected_version: int | None
    ) -> tuple[Receipt | None, bool]:
        """Submit a command once; return its receipt, and whether its outcome is known."""
        command = COMMANDS[kind].model_validate(fields)
        timeout_s = self._random.choice(TIMEOUTS_S)
        number, self._sendings = self._sendings, self._sendings + 1
        self._journal.write(
            "send", n=number, id=command_id, kind=kind, fields=fields, expected_version=expected_version
        )
        try:
            receipt = await self._runtime.submit(
                command, command_id=command_id, expected_version=expected_version, timeout_s=timeout_s
            )
        except EventrayError as error:
            name = "DomainError" if type(error).__name__ == "DomainError" else type(error).__name__
            self._journal.write("failed", n=number, error=name, message=str(error), args=list(error.args))
            return None, name not in ("CommandTimeout", "StoreUnavailable", "Overloaded")
        self._journal.write("receipt", n=number, **_told(receipt))
        self._versions[receipt.stream] = receipt.version
        return receipt, True


def _told(receipt: Receipt) -> dict[str, Any]:
    return {
        "stream": receipt.stream,
        "version": receipt.version,
        "shard": receipt.shard,
        "position": receipt.position,
        "store": receipt.store_id,
        "duplicate": receipt.duplicate,
    }


def _listen(journal: Journal) -> None:
    """Journal each lost call that the client's log tells of; let only warnings through to stderr."""

    def hear(_logger: object, method: str, said: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if str(said["event"]).startswith(LOSSES):
            journal.write("lost", why=str(said["event"]), host=str(said.get("host", "")))
        if method not in ("warning", "error"):
            raise structlog.DropEvent
        return said

    structlog.configure(
        processors=[hear, structlog.processors.TimeStamper(fmt="iso"), structlog.dev.ConsoleRenderer(colors=False)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def drive(plan: DriverPlan) -> None:
    """Join the runtime and drive it until the stop file is there."""
    with Journal(plan.journal) as journal:
        _listen(journal)
        runtime = await _joined(plan)
        try:
            journal.write("began", name=plan.name)
            await Driver(plan, runtime, journal).run()
        finally:
            await runtime.close()
        journal.write("ended", name=plan.name)


async def _joined(plan: DriverPlan) -> Runtime:
    """Join the runtime; again and again where the store is away, of which opening tells at once."""
    settings = Settings(open_timeout_s=30)
    away = retry_if_exception_type(StoreUnavailable)
    async for attempt in AsyncRetrying(retry=away, wait=wait_fixed(0.5), stop=stop_after_delay(60), reraise=True):
        with attempt:
            return await Runtime.open(plan.store, app=plan.app, address=plan.address, settings=settings)
    raise AssertionError("an attempt returns or raises")


if __name__ == "__main__":
    asyncio.run(drive(DriverPlan(**json.loads(sys.argv[1]))))
