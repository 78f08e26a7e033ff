"""Applications: what they hold, how they are found by name, and how they travel."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from typer.testing import CliRunner

from actors.customers import Customer, CustomerCreated, Order
from cluster.application import Application, NoSuchApplication, application_of, default_application, load_application
from cluster.cli.verbs import verbs
from projections import Handler
from projections.customers import CustomerProjection
from store import Event, InvalidValue

SCRIPT = """
from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, Table, Text

from actors import Aggregate, Command
from cluster import Application
from projections import Changes, Projection
from store import Event

class Opened(Event):
    account_id: str

class Open(Command):
    account_id: str

class Account(Aggregate):
    def open(self, command: Open) -> None:
        self.raise_event(Opened(account_id=command.account_id))

    def on_opened(self, event: Opened) -> None:
        self.is_open = True

accounts = Table("accounts", MetaData(), Column("id", Text, primary_key=True))

class Accounts(Projection):
    tables = [accounts]

    def on_opened(self, event: Opened, changes: Changes) -> None:
        changes.insert(accounts, id=event.account_id)

application = Application(aggregates=[Account], projections=[Accounts])
number = 7
"""


def test_the_default_is_the_shop() -> None:
    application = application_of(None)
    assert application == default_application()
    assert application.aggregates == (Customer, Order)
    assert application.projection("CustomerProjection") is CustomerProjection
    assert "CreateOrder" in application.registry.bindings
    with pytest.raises(InvalidValue, match="CustomerProjection was expected"):
        application.projection("Customers")


def test_contradictions_are_refused_when_it_is_made() -> None:
    with pytest.raises(InvalidValue, match="reads Customer"):
        Application(aggregates=[Order])
    with pytest.raises(InvalidValue, match="at least one"):
        Application(aggregates=[])
    with pytest.raises(InvalidValue, match="derived from Aggregate"):
        Application(aggregates=[CustomerProjection])  # type: ignore[list-item]
    with pytest.raises(InvalidValue, match="derived from Handler"):
        Application(aggregates=[Customer, Order], handlers=[object])  # type: ignore[list-item]
    for name in ("Mail", "CustomerProjection"):
        handlers = [handler_named("Mail"), handler_named(name)]
        with pytest.raises(InvalidValue, match="two have this name"):
            Application(aggregates=[Customer, Order], projections=[CustomerProjection], handlers=handlers)


def handler_named(handler_name: str) -> type[Handler]:
    class Named(Handler, name=handler_name):
        def on_created(self, event: CustomerCreated) -> None: ...

    return Named


class Unheard(Event):
    """No aggregate knows it."""


class ManyAtOnce(Handler):
    def on_created(self, events: Sequence[CustomerCreated]) -> None: ...


class OfAnother(Handler):
    def on_other(self, event: Unheard) -> None: ...


class WithoutAny(Handler):
    pass


@pytest.mark.parametrize("app", [5, Application, Customer, ("shop.app", "application")], ids=repr)
def test_what_is_neither_one_nor_a_name_is_refused(app: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^app = .*: give an Application, or its name, module:attribute"):
        application_of(app)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (ManyAtOnce, "one event at a time"),
        (OfAnother, "no aggregate of the application"),
        (WithoutAny, "annotate a method's first parameter"),
    ],
)
def test_methods_of_handlers_are_checked_when_it_is_made(handler: type[Handler], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        Application(aggregates=[Customer, Order], handlers=[handler])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lazy_in_cwd:application", r"reading application failed: .*no module of that kind .*lazy_in_cwd.py, line 2"),
        (
            "lazy_in_cwd:shop.application",
            r"reading shop.application failed: .*has no attribute 'dsn'",
        ),
        ("lazy_in_cwd:shop.missing", r"lazy_in_cwd has no attribute shop.missing"),
    ],
)
def test_what_reading_its_name_raises_is_told(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lazy_in_cwd.py").write_text(
        "def __getattr__(name):\n    raise RuntimeError('no module of that kind')\n"
        "class Shop:\n    @property\n    def application(self):\n        return None.dsn\n"
        "shop = Shop()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "lazy_in_cwd", raising=False)
    with pytest.raises(NoSuchApplication, match=words):
        load_application(name)


def test_it_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bank_in_cwd.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    application = load_application("bank_in_cwd:application")
    assert repr(application) == "Application(Account, Accounts)"
    for name, words in (
        ("bank_in_cwd:nothing", "no attribute nothing"),
        ("bank_in_cwd:number", "is a int"),
        ("no_such_bank:application", "no module no_such_bank"),
        ("bank_in_cwd", "module:attribute"),
    ):
        with pytest.raises(NoSuchApplication, match=words):
            load_application(name)


BROKEN = {
    "a_bad_line": ("x = = 1", "importing a_bad_line failed: SyntaxError: invalid syntax (a_bad_line.py, line 1)"),
    "it_raises": ("\n1 / 0", "importing it_raises failed: ZeroDivisionError: division by zero (HERE/it_raises.py,"),
    "it_exits": ("import sys; sys.exit(3)", "importing it_exits failed: SystemExit: 3 (HERE/it_exits.py, line 1)"),
    "in_lines": ("raise ValueError('one\\n  two')", "failed: ValueError: one two (HERE/in_lines.py, line 1)"),
    "an_import": ("from json import nothing", "importing an_import failed: ImportError: cannot import name 'nothing'"),
    "none_at_all": ("from cluster import Application; application = Application([])", "InvalidValue: aggregates = ()"),
    "factory_raises": (
        "def application():\n    raise KeyError('url')",
        "calling application() failed: KeyError: 'url' (HERE/factory_raises.py, line 2)",
    ),
    "factory_exits": ("def application():\n    raise SystemExit(0)", "calling application() failed: SystemExit: 0"),
    "wants_more": (
        "def application(url): ...",
        "calling application() failed: TypeError: application() missing 1 required positional argument: 'url'",
    ),
}


@pytest.mark.parametrize("module", BROKEN)
def test_whatever_its_code_raises_is_one_line_that_says_where(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, words = BROKEN[module]
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(NoSuchApplication) as refused:
        load_application(f"{module}:application")
    assert words.replace("HERE", str(tmp_path)) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "verb", [["up"], ["rebuild", "Accounts"], ["audit", "store"], ["audit", "projections"], ["replay"]]
)
def test_a_verb_tells_of_it_in_one_line(verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    done = CliRunner().invoke(verbs, [*verb, "--store", f"sqlite:///{tmp_path}/s.db", "--app", "json:loads"])
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "The application json:loads can't be loaded: calling loads() failed: TypeError" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_it_is_imported_is_no_fault_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted.py").write_text("raise KeyboardInterrupt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(KeyboardInterrupt):
        load_application("interrupted:application")


def test_one_that_is_defined_in_the_script_travels_by_value() -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec(SCRIPT, namespace)
    packed = cloudpickle.dumps(namespace["application"])  # type: ignore[no-untyped-call]
    for cls in ("Account", "Accounts", "Open", "Opened"):
        namespace[cls] = None  # the other process knows none of these names
    arrived: Application = cloudpickle.loads(packed)
    binding, command = arrived.registry.decode_command("Open", '{"account_id": "a-1"}')
    account = binding.aggregate_class("a-1")
    binding.decide(account, command)
    assert [event.event_type for event in account.uncommitted_events] == ["Opened"]
    (projection,) = arrived.projections
    assert projection.name == "Accounts"
    assert [event.event_type for event in projection.event_methods()] == ["Opened"]


def test_one_that_can_be_imported_travels_by_reference() -> None:
    arrived: Application = cloudpickle.loads(cloudpickle.dumps(default_application()))  # type: ignore[no-untyped-call]
    assert arrived == default_application()
    assert arrived.aggregates[0] is Customer
