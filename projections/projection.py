"""Projections: the base class that users derive theirs from.

A projection says which rows each event changes. Pure: it fills a `Changes`, it does no I/O, and it sees no rows but its
own that `reads` names, so that a replay of the log gives the same read model. Not here: following the log
(`subscriber.py`) and the SQL (`read_models.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from sqlalchemy import ARRAY, Constraint, Index, MetaData, PrimaryKeyConstraint, Table, UniqueConstraint

from projections.changes import Key
from projections.event_methods import EventMethod, methods_of
from projections.tables import RESERVED, Build
from store.errors import InvalidValue
from store.events import Event


class Projection:
    """A read model made of events. Derive from it; methods are found by what their first parameter is annotated with:

        accounts = Table("accounts", MetaData(), Column("id", Text, primary_key=True), Column("balance", Integer))

        class Accounts(Projection):
            tables = [accounts]

            def on_opened(self, event: AccountOpened, changes: Changes) -> None:
                changes.insert(accounts, id=event.account_id, balance=0)

            def on_deposited(self, event: Deposited, changes: Changes) -> None:
                changes.add(accounts, event.account_id, balance=event.amount)

    An annotation may be a union, or a base class of several event types; other types are not even decoded. Where it
    is a `Sequence` of such, the method gets all of a batch at once that follow on each other:

            def on_deposits(self, events: Sequence[Deposited], changes: Changes) -> None:

    Class keywords: `name` (default: the class's name), under which its progress is kept, and `version` (default: 1), to
    be raised with any change of the tables or of what the methods do.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    tables: ClassVar[Sequence[Table]] = ()
    """The first is the one that `query` reads. In SQL each is a view of this name over a table of this version."""

    def __init_subclass__(cls, name: str | None = None, version: int = 1, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name or cls.__name__
        cls.version = version

    def reads(self, event: Event) -> Iterable[tuple[Table, Key]]:
        """Return which rows its methods will look at for this event, by `changes.row`; override it to look at some.

        Only rows of its own tables that one shard feeds, the event's own: others change meanwhile.
        """
        return ()

    @classmethod
    def subscriber(cls) -> str:
        """The name that the checkpoints of its first build are kept under, one for each version."""
        return Build(cls.version).subscriber(cls.name)

    @classmethod
    def physical_tables(cls, build: Build | None = None) -> Mapping[Table, Table]:
        """Return a build's tables (None: the first's, `<name>_v<version>`), by those that the class names."""
        metadata = MetaData()
        suffix = (build or Build(cls.version)).suffix
        return {table: _of_version(table, metadata, suffix) for table in cls.tables}

    @classmethod
    def event_methods(cls) -> dict[type[Event], EventMethod]:
        """Return its event methods by annotated type.

        Raises InvalidValue where a method is not one for its type, and where the class lacks what a projection needs.
        (Not said when the class is made: one that travels to another process by value is made there empty at first.)
        """
        cls._check()
        return methods_of(cls, Projection, 3, "a plain function of an event and changes")

    @classmethod
    def _check(cls) -> None:
        if cls.version < 1:
            raise InvalidValue("version", str(cls.version), "count versions from 1")
        if not cls.tables:
            raise InvalidValue("tables", cls.name, "name the tables that it fills")
        for table in cls.tables:
            _check_table(table)


def _check_table(table: Table) -> None:
    if not table.primary_key.columns:
        raise InvalidValue("tables", table.name, "give the table a primary key")
    if table.name in RESERVED:
        raise InvalidValue("tables", table.name, "Eventray has a table of this name itself: give it another")
    for column in table.columns:
        if isinstance(getattr(column.type, "impl", column.type), ARRAY):
            remedy = "rows are given as arrays, so none can be in them: use JSON, or a table of its own"
            raise InvalidValue("tables", f"{table.name}.{column.name}", remedy)
    if any(item._ddl_if and item.name is None for item in _parts(table)):
        raise InvalidValue("tables", table.name, "give what is for some databases only (ddl_if) a name")


def _parts(table: Table) -> list[Constraint | Index]:
    return [*table.constraints, *table.indexes]


def _of_version(table: Table, metadata: MetaData, suffix: str) -> Table:
    """Copy a table under another name, with all that `to_metadata` leaves behind: which databases a constraint or an
    index is for (`ddl_if`), and that a database has one index of a name.
    """
    originals = {item.name: item for item in _parts(table) if isinstance(item.name, str)}
    copy = table.to_metadata(metadata, name=f"{table.name}{suffix}")
    for item in _parts(copy):
        if isinstance(item.name, str) and item.name in originals:
            item._ddl_if = originals[item.name]._ddl_if
            if isinstance(item, Index | UniqueConstraint | PrimaryKeyConstraint):
                item.name = f"{item.name}{suffix}"
    return copy
