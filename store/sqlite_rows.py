"""Events coming out of SQLite: one row with all of them, a value a column of theirs, whatever their number.

So the driver takes one step for all of them (why: `sqlite.py`). Texts come one behind the other, parted by a character
that neither ids nor JSON hold; event ids as their bytes; numbers as JSON arrays. What does not fit into that, since a
row is damaged, is read once more in another form. Not here: connections and threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Text

from store.columns import PLACES, Column, EventColumns
from store.records import EventRecord
from store.schema import events

EVENT_ID = PLACES["event_id"]
TEXTS = [PLACES[column.name] for column in events.columns if isinstance(column.type, Text)]
WHOLE_TEXTS = [
    PLACES[column.name] for column in events.columns if isinstance(column.type, Text) and not column.nullable
]
NUMBERS = [place for place in PLACES.values() if place not in (*TEXTS, EVENT_ID)]
SOON = [PLACES[name] for name in ("stream", "partition_key", "type", "data")]
"""The texts that nobody leaves as they are."""
LONG = [PLACES[name] for name in ("data", "metadata")]
PARTING = "\x1e"
NULL = "\x1f"
ID_BYTES = 16
ID_PARTING = b","
SHOWN_DIGITS_MAX = 40
LAST = (1 << 63) - 1
_RECORD = partial(tuple.__new__, EventRecord)


class Unfit(Exception):
    """What a query brought must be read in the form of `carefully`."""


def _forms() -> str:
    columns = [f"events.{name}" for name in EventRecord._fields]
    forms = [f"json_group_array({column})" for column in columns]
    for place in TEXTS:
        whole = columns[place] if place in WHOLE_TEXTS else f"ifnull({columns[place]}, '{NULL}')"
        forms[place] = f"group_concat({whole}, '{PARTING}')"
    # With its own way of parting, SQLite keeps the ids, which it makes texts of, out of the room where the other texts
    # are brought, and need not find new room for each of them.
    forms[EVENT_ID] = f"CAST(group_concat({columns[EVENT_ID]}) AS BLOB)"
    return ", ".join(forms)


def _odd_ones() -> str:
    """How many hold no text, or no bytes, where one should be."""
    columns = [f"events.{name}" for name in EventRecord._fields]
    # Any blob is greater than any text; a long text is not brought for its type.
    odd = [
        f"typeof({columns[place]}) <> 'text'" if place in LONG else f"{columns[place]} >= X''" for place in WHOLE_TEXTS
    ]
    return f"count(*) FILTER (WHERE {' OR '.join(odd)} OR typeof({columns[EVENT_ID]}) <> 'blob')"


def _careful_rows_out() -> str:
    columns = [f"events.{name}" for name in EventRecord._fields]
    for place in TEXTS:
        text = columns[place]
        columns[place] = (
            f"CASE typeof({text}) WHEN 'null' THEN NULL WHEN 'text' THEN hex({text}) ELSE 'X' || hex({text}) END"
        )
    columns[EVENT_ID] = f"hex({columns[EVENT_ID]})"
    return f"SELECT {', '.join(f'json_group_array({column})' for column in columns)} FROM "  # noqa: S608


ROWS_OUT = f"SELECT {_forms()}, {_odd_ones()} FROM "  # noqa: S608
FOLDED_ROWS_OUT = f"SELECT {_forms()}, 0 FROM "  # noqa: S608
"""For what is folded, a blob is the text that its bytes are: to look at each costs a fifth of the query."""
CAREFUL_ROWS_OUT = _careful_rows_out()
"""For damaged rows: of texts the hexadecimal digits, behind an X for what is no text."""
# No ORDER BY: a subquery with one, even where nothing has to be sorted, costs a quarter of the time. Each WHERE is a
# range of the one index that has it, which SQLite goes through in order. Its end is looked up in the index alone.
READ_SHARD = f"""{ROWS_OUT} events WHERE ?3 > 0 AND shard = ?1 AND position > ?2 AND position <= coalesce(
    (SELECT position FROM events WHERE shard = ?1 AND position > ?2 ORDER BY position LIMIT 1 OFFSET ?3 - 1),
    {LAST})"""  # noqa: S608
READ_STREAM = f"""{ROWS_OUT} events WHERE ?3 > 0 AND stream = ?1 AND version > ?2 AND version <= coalesce(
    (SELECT version FROM events WHERE stream = ?1 AND version > ?2 ORDER BY version LIMIT 1 OFFSET ?3 - 1),
    {LAST})"""  # noqa: S608
READ_STREAMS = f"""{FOLDED_ROWS_OUT} json_each(?1) AS wanted CROSS JOIN events
    ON events.stream = json_extract(wanted.value, '$[0]')
    AND events.version > json_extract(wanted.value, '$[1]')
    AND events.version <= coalesce(CASE WHEN ?2 > 0 THEN (
        SELECT version FROM events AS next
        WHERE next.stream = json_extract(wanted.value, '$[0]') AND next.version > json_extract(wanted.value, '$[1]')
        ORDER BY version LIMIT 1 OFFSET ?2 - 1) END, {LAST})"""  # noqa: S608
"""Stream by stream in the order in which they are wanted: CROSS JOIN keeps it. At most ?2 of each, or all (null)."""
FIND_COMMANDS = f"""{ROWS_OUT} json_each(?) AS wanted CROSS JOIN events
    ON events.shard = json_extract(wanted.value, '$[0]') AND events.command_key = json_extract(wanted.value, '$[1]')
    AND events.stream = json_extract(wanted.value, '$[2]')"""


def carefully(query: str) -> str:
    """Return one of the queries above in the form that brings damaged rows too."""
    return query.replace(ROWS_OUT, CAREFUL_ROWS_OUT).replace(FOLDED_ROWS_OUT, CAREFUL_ROWS_OUT)


def records_of(row: Sequence[Any]) -> Sequence[EventRecord]:
    """Return the records that a query brought. Raises Unfit."""
    *columns, odd = row
    ids = columns[EVENT_ID]
    if ids is None:
        return []
    size = (len(ids) + 1) // (ID_BYTES + 1)
    if odd or ids[ID_BYTES :: ID_BYTES + 1] != ID_PARTING * (size - 1):
        raise Unfit
    for place in TEXTS:
        columns[place] = _text_column(columns[place], size, place)
    for place in NUMBERS:
        columns[place] = partial(from_json, columns[place])
    columns[EVENT_ID] = partial(_ids, ids)
    return EventColumns(columns, size)


def _text_column(text: str, size: int, place: int) -> Column:
    if place in SOON:
        values = text.split(PARTING)
        if len(values) != size:
            raise Unfit
        return values
    if text.count(PARTING) != size - 1:
        raise Unfit
    return partial(text.split, PARTING) if place in WHOLE_TEXTS else partial(_nullable, text)


def _nullable(text: str) -> list[str | None]:
    return [None if value == NULL else value for value in text.split(PARTING)]


def _ids(ids: bytes) -> list[bytes]:
    return [ids[start : start + ID_BYTES] for start in range(0, len(ids), ID_BYTES + len(ID_PARTING))]


def careful_records_of(row: Sequence[str]) -> list[EventRecord]:
    """Return the records that a query brought in the form of `carefully`."""
    columns = list(map(from_json, row))
    columns[EVENT_ID] = list(map(bytes.fromhex, columns[EVENT_ID]))
    for place in TEXTS:
        columns[place] = list(map(_text_or_what_it_is, columns[place]))
    return list(map(_RECORD, zip(*columns, strict=True)))


def text_of(hexadecimal: str) -> str:
    """Return a text that came out as hexadecimal digits, since JSON can't hold a damaged one."""
    return bytes.fromhex(hexadecimal).decode(errors="backslashreplace")


def _text_or_what_it_is(digits: str | None) -> str | None:
    """Return the text of what `CAREFUL_ROWS_OUT` brought; of what is none, words that are no JSON."""
    if digits is None or not digits.startswith("X"):
        return None if digits is None else text_of(digits)
    return f"no text, but the bytes {digits[1:][:SHOWN_DIGITS_MAX]}"
