"""Making the tables and views of read models, where the store makes its own: in the first schema of the search path.

Everything here is to be run in a transaction of `Database.write_alone`. Not here: which of them are needed
(`read_models.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, Table, inspect, text

from projections.tables import metadata, projections
from store.errors import InvalidValue


def make_tables(connection: Connection, physical: Mapping[Table, Table]) -> None:
    """Make what is missing of a projection's tables, and of those beside the read models."""
    here = connection.execution_options(schema_translate_map={None: _schema(connection)})
    metadata.create_all(here)
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


def is_made(connection: Connection) -> bool:
    """Tell whether there are read models at all."""
    return inspect(connection).has_table(projections.name, _schema(connection))


def _schema(connection: Connection) -> str:
    schema = connection.dialect.default_schema_name
    assert schema is not None, "the store has made its tables in it"
    return schema
