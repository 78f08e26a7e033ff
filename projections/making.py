"""Making the tables and views of read models, where the store makes its own: in the first schema of the search path.

Everything here is to be run in a transaction of `Database.write_alone`. Not here: which of them are needed
(`read_models.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Column, Connection, MetaData, Table, inspect, text
from sqlalchemy.schema import CreateColumn

from projections.tables import Build, metadata, projections
from store.errors import InvalidValue


def make_tables(connection: Connection, physical: Mapping[Table, Table]) -> None:
    """Make what is missing of a projection's tables, and of those beside the read models."""
    here = connection.execution_options(schema_translate_map={None: _schema(connection)})
    metadata.create_all(here)
    _add_missing_columns(connection)
    for table in physical.values():
        table.create(here, checkfirst=True)


def make_views(connection: Connection, physical: Mapping[Table, Table]) -> None:
    """Let the views by which people read a projection show these tables.

    Raises InvalidValue where the database has another view of that name.
    """
    quoted = connection.dialect.identifier_preparer.quote
    schema, inspector = _schema(connection), inspect(connection)
    views = set(inspector.get_view_names(schema))
    for logical, table in physical.items():
        view = f"{quoted(schema)}.{quoted(logical.name)}"
        if logical.name in views:
            if f"{logical.name}_v" not in inspector.get_view_definition(logical.name, schema):
                remedy = "the database has a view of this name that is not Eventray's: give the table another"
                raise InvalidValue("tables", logical.name, remedy)
            connection.execute(text(f"DROP VIEW {view}"))
        connection.execute(text(f"CREATE VIEW {view} AS SELECT * FROM {quoted(table.name)}"))  # noqa: S608 - names of the code


def older_table(connection: Connection, logical: Table, build: Build) -> Table:
    """Return a table of a build of an older version, with the columns that it has, read as today's of the same name."""
    name, schema = f"{logical.name}{build.suffix}", _schema(connection)
    keys = set(logical.primary_key.columns.keys())
    columns = [
        Column(
            each["name"],
            logical.c[each["name"]].type if each["name"] in logical.c else each["type"],
            primary_key=each["name"] in keys,
        )
        for each in inspect(connection).get_columns(name, schema)
    ]
    return Table(name, MetaData(), *columns)


def table_names(connection: Connection) -> list[str]:
    """Return the names of all tables beside the read models."""
    return inspect(connection).get_table_names(_schema(connection))


def drop_tables(connection: Connection, names: Iterable[str]) -> None:
    """Drop tables, which are to be there."""
    quoted = connection.dialect.identifier_preparer.quote
    for name in names:
        connection.execute(text(f"DROP TABLE {quoted(_schema(connection))}.{quoted(name)}"))


def columns_made(connection: Connection) -> set[str]:
    """Return which columns `projections` has: none without read models, fewer in those of an older Eventray."""
    if not inspect(connection).has_table(projections.name, _schema(connection)):
        return set()
    return {each["name"] for each in inspect(connection).get_columns(projections.name, _schema(connection))}


def lock_out_readers(connection: Connection) -> None:
    """Wait until nobody reads any read model, and let nobody read one until the transaction ends.

    For PostgreSQL, where a snapshot doesn't keep a view or a table that is dropped. SQLite's does.
    """
    if connection.dialect.name == "postgresql":
        quoted = connection.dialect.identifier_preparer.quote
        table = f"{quoted(_schema(connection))}.{quoted(projections.name)}"
        connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))


def _add_missing_columns(connection: Connection) -> None:
    """Bring read models that an older Eventray made to what is needed: their first builds go on."""
    quoted, there = connection.dialect.identifier_preparer.quote, columns_made(connection)
    for column in projections.columns:
        if column.name not in there:
            definition = CreateColumn(column).compile(dialect=connection.dialect)
            table = f"{quoted(_schema(connection))}.{quoted(projections.name)}"
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {definition}"))


def _schema(connection: Connection) -> str:
    schema = connection.dialect.default_schema_name
    assert schema is not None, "the store has made its tables in it"
    return schema
