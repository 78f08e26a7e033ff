"""State as JSON and back, the fingerprint of what folds it, and snapshots that are left alone."""

from __future__ import annotations

import importlib
import shutil
import sys
import textwrap
import types
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import BaseModel

from actors import Aggregate
from actors.customers import Customer, Order
from actors.snapshots import Snapshots, StateCodec, due
from store import Event, InvalidValue
from store.records import Snapshot


class Color(StrEnum):
    RED = "Red"


@dataclass
class Line:
    sku: str
    price: Decimal


class Address(BaseModel):
    city: str
    since: date


class BasketFilled(Event):
    basket_id: str


class Basket(Aggregate):
    amount: Decimal
    at: datetime
    color: Color
    lines: list[Line]
    prices: dict[str, Decimal]
    by_number: dict[int, tuple[str, Decimal]]
    seen: set[str]
    address: Address | None
    waits: timedelta
    _private: frozenset[int]
    unset: int
    defaulted: int = 7

    def on_filled(self, event: BasketFilled) -> None:
        self.amount = Decimal("12.50")
        self.at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
        self.color = Color.RED
        self.lines = [Line("a", Decimal("1.10")), Line("b", Decimal("0"))]
        self.prices = {"a": Decimal("1.10"), "zoë": Decimal("NaN" if False else "2")}
        self.by_number = {3: ("x", Decimal("3.0"))}
        self.seen = {"p", "q"}
        self.address = Address(city="Wien", since=date(2020, 2, 29))
        self.waits = timedelta(seconds=1.5)
        self._private = frozenset({1, 2})


def filled(aggregate_class: type[Aggregate] = Basket) -> Any:
    basket: Any = aggregate_class("b-1")
    basket.raise_event(BasketFilled(basket_id="b-1"))
    basket.mark_committed()
    return basket


def taken(snapshots: Snapshots, aggregate: Aggregate) -> Snapshot:
    snapshot = snapshots.take(aggregate, 5)
    assert snapshot is not None
    return snapshot


def test_state_of_many_types_comes_back_as_it_was() -> None:
    basket, snapshots = filled(), Snapshots()
    snapshot = taken(snapshots, basket)
    assert (snapshot.stream, snapshot.version, snapshot.recorded_at) == ("basket-b-1", 1, 5)
    again: Any = snapshots.restore([snapshot], {"basket-b-1": Basket})["basket-b-1"]
    assert vars(again) == vars(basket)
    assert type(again.color) is Color
    assert str(again.amount) == "12.50"
    assert not hasattr(again, "unset")
    assert again.defaulted == 7
    assert snapshots.counts._asdict() == {**Snapshots().counts._asdict(), "taken": 1, "used": 1}


def test_the_shops_aggregates_can_be_encoded() -> None:
    assert StateCodec(Customer).fingerprint != StateCodec(Order).fingerprint


def test_a_snapshot_is_due_when_the_version_passes_a_multiple() -> None:
    basket = filled()
    cases = {(99, 100): True, (100, 101): False, (98, 103): True, (100, 300): True, (0, 99): False, (0, 100): True}
    for (former, version), expected in cases.items():
        basket.version = version
        assert due(basket, former) is expected, (former, version)


@pytest.mark.parametrize("never", [None, 0])
def test_a_class_may_have_no_snapshots(never: int | None) -> None:
    class Silent(Aggregate, snapshot_every=never):
        def on_filled(self, event: BasketFilled) -> None: ...

    silent = Silent("s-1")
    silent.version = 100
    assert not due(silent, 0)
    fingerprints = Snapshots().fingerprints({"silent-s-1": Silent, "basket-b-1": Basket})
    assert fingerprints["silent-s-1"] is None
    assert fingerprints["basket-b-1"]


@pytest.mark.parametrize("wrong", [-1, True, 1.5, "100"])
def test_a_number_that_counts_no_events_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidValue, match="snapshot_every"):
        type("Wrong", (Aggregate,), {}, snapshot_every=wrong)


class Unannotated(Aggregate, category="unannotated"):
    def on_filled(self, event: BasketFilled) -> None:
        self.total = 1


class LooselyAnnotated(Aggregate):
    things: dict[str, Any]

    def on_filled(self, event: BasketFilled) -> None:
        self.things = {"price": Decimal("1")}


class WronglyAnnotated(Aggregate):
    name: str

    def on_filled(self, event: BasketFilled) -> None:
        self.name = Color.RED


class OtherDict(Aggregate):
    counts: dict[str, int]

    def on_filled(self, event: BasketFilled) -> None:
        self.counts = defaultdict(int, a=1)


class Unserializable(Aggregate):
    lock: object

    def on_filled(self, event: BasketFilled) -> None:
        self.lock = object()


class Slotted(Aggregate):
    __slots__ = ("amount",)
    amount: int

    def on_filled(self, event: BasketFilled) -> None:
        self.amount = 1


@pytest.mark.parametrize(
    ("aggregate_class", "said"),
    [
        (Unannotated, "total"),
        (LooselyAnnotated, "things.price"),
        (WronglyAnnotated, "name"),
        (OtherDict, "counts"),
        (Unserializable, "object"),
        (Slotted, "__slots__"),
    ],
)
def test_a_class_that_json_can_not_carry_gets_none_and_says_so_once(
    aggregate_class: type[Aggregate], said: str
) -> None:
    with structlog.testing.capture_logs() as logs:
        assert Snapshots().take(filled(aggregate_class), 5) is None
        assert Snapshots().take(filled(aggregate_class), 5) is None
    (line,) = logs
    assert line["aggregate"] == aggregate_class.__name__
    assert said in line["reason"]
    assert Snapshots().fingerprints({"x-1": aggregate_class}) == {"x-1": None}


DAMAGES = {
    "not JSON": "{",
    "no object": "null",
    "nothing in it": "{}",
    "a wrong type": '{"version":1,"partition_key":"b-1","state":{"amount":[]}}',
    "a field too many": '{"version":1,"partition_key":"b-1","state":{"other":1}}',
    "another version": '{"version":2,"partition_key":"b-1","state":{}}',
    "no UTF-8": '{"version":1,"partition_key":"\\xff","state":{}}',
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_left_alone_with_a_warning_and_a_count(damage: str) -> None:
    snapshots = Snapshots()
    snapshot = taken(snapshots, filled())._replace(data=DAMAGES[damage])
    with structlog.testing.capture_logs() as logs:
        assert snapshots.restore([snapshot], {"basket-b-1": Basket}) == {}
    assert [line["stream"] for line in logs] == ["basket-b-1"]
    assert (snapshots.counts.ignored_damaged, snapshots.counts.used) == (1, 0)


def test_one_of_other_code_is_left_alone_without_a_look_at_its_data() -> None:
    snapshots = Snapshots()
    snapshot = taken(snapshots, filled())._replace(fingerprint="of other code", data="{")
    with structlog.testing.capture_logs() as logs:
        assert snapshots.restore([snapshot], {"basket-b-1": Basket}) == {}
    assert logs == []
    assert (snapshots.counts.ignored_fingerprint, snapshots.counts.ignored_damaged) == (1, 0)


MODEL = '''
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import partial
import rates
import shelves.ways
from actors import Aggregate, Command, DomainError
from rates import Measured
from store import Event, Upcaster

RATE = Decimal("1.1")
BONUS = {"a": 1}
KNOWN = frozenset({"a", "b", "c"})

class Kind(StrEnum):
    A = "A"

@dataclass
class Line:
    sku: str
    price: Decimal = Decimal("0")

    def taxed(self):
        return self.price * RATE

class Tariff:
    def __init__(self, base):
        self.base = base

    def price(self, count):
        return self.base * count

TARIFF = Tariff(30)

def doubled(value):
    return value * 200

WAYS = {"a": doubled}

def tripled(value):
    return value * 300

def in_some_way(value, way=tripled):
    return way(value)

def plus(added, way, value):
    return way(value) + added

quadrupled = partial(plus, 4, lambda value: value * 400)

def step(data):
    return {**data, "kind": "A"}

def helped(value):
    return deeper(value)

def deeper(value):
    return value + 1

def late(value):
    import shelves.later
    from rates import raised

    def later_still():
        from . import latest
        from .latest import squared as powered

        return latest.cubed(value) + powered(value)

    return shelves.later.thirded(value) + raised(value) + later_still()

def unused(value):
    return value

class Fill(Command):
    shelf_id: str

class Filled(Event, event_type="Filled", schema_version=2, upcasters=[Upcaster(1, 2, step)]):
    shelf_id: str
    count: int = 1
    kind: Kind = Kind.A

class Noting(Aggregate):
    def note(self) -> None:
        self.count += 50

class Shelf(Noting):
    lines: list[Line]
    count: int = 0

    def fill(self, command: Fill) -> None:
        self.raise_event(Filled(shelf_id=self.aggregate_id))

    def on_filled(self, event: Filled) -> None:
        """Documented."""
        self.count = helped(event.count) + BONUS["a"]
        if event.kind in KNOWN:
            self.lines = [Line("x").taxed() for _ in range(3)]
        self.count += TARIFF.price(1) + WAYS["a"](1) + in_some_way(1) + quadrupled(1)
        self.note()

    def on_measured(self, event: Measured) -> None:
        self.count += rates.scaled(event.size) + shelves.ways.halved(4) + late(1)

    def note(self) -> None:
        super().note()
        self.count += 5
'''
MODULES = {
    "rates": """
from store import Event, Upcaster

def smaller(data):
    return {**data, "size": 70}

class Measured(Event, event_type="Measured", schema_version=2, upcasters=[Upcaster(1, 2, smaller)]):
    shelf_id: str
    size: int = 60

def scaled(value):
    return value * 80

def raised(value):
    return value * 90
""",
    "shelves": "",
    "shelves.ways": """
def halved(value):
    return value // 2
""",
    "shelves.later": """
def thirded(value):
    return value // 30
""",
    "shelves.latest": """
def cubed(value):
    return value ** 31

def squared(value):
    return value ** 21
""",
    "shelves.model": MODEL,
}


def fingerprint(old: str = "", new: str = "", installed: str = "") -> str:
    """Of the shelf, with one text of its modules replaced by another; all but `installed` are the application's."""
    made = {name: types.ModuleType(name) for name in MODULES}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in made.items():
            module.__file__ = f"/{'site-packages' if name == installed else 'app'}/{name}.py"
            patch.setitem(sys.modules, name, module)
        vars(made["shelves"]).update(ways=made["shelves.ways"], later=made["shelves.later"])
        for name, module in made.items():
            source = MODULES[name].replace(old, new, 1)
            exec(compile(textwrap.dedent(source), name, "exec", dont_inherit=True), vars(module))
        return StateCodec(made["shelves.model"].Shelf).fingerprint


CHANGES = {
    "an event method": ("helped(event.count) +", "helped(event.count) -"),
    "a function that it calls": ("return deeper(value)", "return 2 * deeper(value)"),
    "a function that that one calls": ("return value + 1", "return value + 2"),
    "a method that it calls": ("self.count += 5\n", "self.count += 6\n"),
    "a class that it uses": ("self.price * RATE", "self.price + RATE"),
    "a default of that class": ('price: Decimal = Decimal("0")', 'price: Decimal = Decimal("1")'),
    "a constant": ('RATE = Decimal("1.1")', 'RATE = Decimal("1.2")'),
    "a table": ('{"a": 1}', '{"a": 2}'),
    "a set": ('"b", "c"', '"b", "d"'),
    "a constant in a comprehension": ('Line("x")', 'Line("y")'),
    "the state's shape": ("lines: list[Line]", "lines: tuple[Line, ...]"),
    "a default of the state": ("count: int = 0", "count: int = 1"),
    "an event's stored name": ('event_type="Filled"', 'event_type="Refilled"'),
    "an event's default": ("count: int = 1", "count: int = 2"),
    "an upcaster": ('"kind": "A"', '"kind": "B"'),
    "an enum's member": ('A = "A"', 'A = "AA"'),
    "a method of an object": ("self.base * count", "self.base + count"),
    "what an object holds": ("Tariff(30)", "Tariff(31)"),
    "a function in a table": ("value * 200", "value * 201"),
    "a function that is a default": ("value * 300", "value * 301"),
    "a function within a partial": ("value * 400", "value * 401"),
    "a value within a partial": ("partial(plus, 4", "partial(plus, 5"),
    "a method of a base class": ("self.count += 50", "self.count += 51"),
    "a function by its dotted name": ("value // 2", "value // 3"),
    "a function of another top-level module": ("value * 80", "value * 81"),
    "a module that a function imports": ("value // 30", "value // 31"),
    "a function that a function imports": ("value * 90", "value * 91"),
    "a neighbour that a function imports": ("value ** 31", "value ** 32"),
    "a function of a neighbour that a function imports": ("value ** 21", "value ** 22"),
    "an event of another top-level module": ("size: int = 60", "size: int = 61"),
    "an upcaster of another top-level module": ('"size": 70', '"size": 71'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_folds_changes_the_fingerprint(change: str) -> None:
    old, new = CHANGES[change]
    assert sum(source.count(old) for source in MODULES.values()) == 1
    assert fingerprint(old, new) != fingerprint()


NO_CHANGES = {
    "nothing": ("", ""),
    "a docstring": ("Documented.", "Documented well."),
    "a comment": ("self.note()", "self.note()  # why"),
    "lines above": ("RATE =", "\n\nRATE ="),
    "code that nothing uses": ("return value\n", "return 2 * value\n"),
    "how commands are decided": ("self.raise_event(Filled", "assert command; self.raise_event(Filled"),
}


@pytest.mark.parametrize("change", NO_CHANGES)
def test_a_change_of_something_else_does_not(change: str) -> None:
    old, new = NO_CHANGES[change]
    assert old in MODEL
    assert fingerprint(old, new) == fingerprint()


def test_the_code_of_a_library_is_not_gone_into() -> None:
    assert fingerprint("value * 80", "value * 81", installed="rates") == fingerprint(installed="rates")


LATE_MODEL = """
from actors import Aggregate
from store import Event

class Stored(Event):
    pantry_id: str

class Pantry(Aggregate):
    count: int = 0

    def on_stored(self, event: Stored) -> None:
        from pantry_shop.late import added
        try:
            from pantry_shop.gone import fast
        except ImportError:
            fast = None
        import wave
        self.count = added(self.count)
"""


def test_a_module_that_nobody_has_imported_yet_is_gone_into_and_one_that_is_not_there_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pantry_shop"
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def fingerprint_with(added: str) -> str:
        (package / "__init__.py").touch()
        (package / "model.py").write_text(LATE_MODEL)
        (package / "late.py").write_text(f"def added(count):\n    return {added}\n")
        shutil.rmtree(package / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        model = importlib.import_module("pantry_shop.model")
        assert "pantry_shop.late" not in sys.modules
        try:
            return StateCodec(model.Pantry).fingerprint
        finally:
            for name in [name for name in sys.modules if name.startswith("pantry_shop")]:
                del sys.modules[name]

    one = fingerprint_with("count + 1")
    assert fingerprint_with("count + 2") != one
    assert fingerprint_with("count + 1") == one


def test_a_package_without_a_file_of_its_own_is_gone_into_whether_or_not_it_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "till_rates").mkdir()
    (tmp_path / "till_shop.py").write_text(LATE_MODEL.replace("pantry_shop.late", "till_rates.table"))
    monkeypatch.syspath_prepend(tmp_path)

    def fingerprint_with(added: str, imported: bool) -> str:
        (tmp_path / "till_rates" / "table.py").write_text(f"def added(count):\n    return {added}\n")
        shutil.rmtree(tmp_path / "till_rates" / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        model = importlib.import_module("till_shop")
        if imported:
            importlib.import_module("till_rates.table")
        try:
            return StateCodec(model.Pantry).fingerprint
        finally:
            for name in [name for name in sys.modules if name.startswith("till_")]:
                del sys.modules[name]

    one = fingerprint_with("count + 1", imported=False)
    assert fingerprint_with("count + 2", imported=False) != one
    assert fingerprint_with("count + 1", imported=True) == one


def test_every_process_has_the_same_fingerprint() -> None:
    import subprocess

    program = (
        "from tests.unit.test_snapshots import *; print(fingerprint(), StateCodec(Customer).fingerprint,"
        " StateCodec(Basket).fingerprint)"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1
    assert answers.pop().split()[1] == StateCodec(Customer).fingerprint
