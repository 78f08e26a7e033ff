"""Lines of commands: what a good one holds, and what is said of a bad one."""

import asyncio
import os
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from actors.customers import CreateCustomer, CreateOrder, Customer, Order
from actors.registry import AggregateRegistry
from cluster.cli.lines import BadLine, Line, parse_line, read_lines

REGISTRY = AggregateRegistry([Customer, Order])
ORDER = b'"command": "CreateOrder", "data": {"order_id": "o-1", "customer_id": "c-1", "total_amount": %s}'


def parsed(text: bytes) -> Line:
    line = parse_line(1, text, REGISTRY)
    assert isinstance(line, Line), line
    return line


def reason(text: bytes) -> str:
    line = parse_line(7, text, REGISTRY)
    assert isinstance(line, BadLine), line
    assert line.number == 7
    assert line.reason.isprintable()
    return line.reason


def test_a_line_gives_the_command_and_submits_keywords() -> None:
    line = parsed(
        b'{%b, "command_id": "cart-77", "expected_version": 3, "occurred_at": "1997-01-18T00:00:00Z", '
        b'"timeout_s": 5, "metadata": {"user": "ada"}}' % (ORDER % b'"29.73"')
    )
    assert line.command == CreateOrder(order_id="o-1", customer_id="c-1", total_amount=Decimal("29.73"))
    assert line.keywords == {
        "command_id": "cart-77",
        "expected_version": 3,
        "occurred_at": datetime(1997, 1, 18, tzinfo=UTC),
        "timeout_s": 5.0,
        "metadata": {"user": "ada"},
    }


def test_an_amount_written_as_a_number_keeps_its_digits() -> None:
    command = parsed(b"{%b}" % (ORDER % b"99999999999.4321")).command
    assert isinstance(command, CreateOrder)
    assert command.total_amount == Decimal("99999999999.4321")


def test_a_byte_order_mark_and_a_carriage_return_do_no_harm() -> None:
    text = (
        b'\xef\xbb\xbf{"data": {"customer_id": "c-1", "name": "Ada", "email": "a@b.co"}, "command": "CreateCustomer"}\r'
    )
    assert isinstance(parsed(text).command, CreateCustomer)


@pytest.mark.parametrize(
    ("text", "field", "expectation"),
    [
        (b'{"command": "CreateOrder", "data"', "line", "one JSON object was expected"),
        (b"[1, 2]", "line", "one JSON object was expected"),
        (b'{"command": "CreateOrder"} {}', "line", "extra data"),
        (b"[" * 100_000, "line", "one JSON object was expected"),
        (b'{"data": ' + b"[" * 100_000, "line", "one JSON object was expected"),
        (b'{"command": "CreateOrder", "data": ' + b"1" * 5_000 + b"}", "line", "one JSON object was expected"),
        (b'{"command": "CreateOrder", "data": {}, "data": {}}', "'data'", "given twice"),
        (b'{"command": "\xff"}', "line", "UTF-8"),
        (b'{"command": "CreateOrder", "data": {"customer_id": "\x00"}}', "line", "control character"),
        (b'{"data": {}}', "command", "the name of a command"),
        (b'{"command": 7, "data": {}}', "command", "string"),
        (b'{"command": "CreateOrdr", "data": {}}', "command", "did you mean CreateOrder?"),
        (b'{"command": "CreateOrder"}', "data", "a JSON object with the fields of CreateOrder"),
        (b'{"command": "CreateOrder", "data": []}', "data", "a JSON object"),
        (b"{%b}" % (ORDER % b"NaN"), "total_amount", "finite"),
        (b"{%b}" % (ORDER % b'"NaN"'), "total_amount", "finite"),
        (b"{%b}" % (ORDER % b'"-1.00"'), "total_amount", "greater than or equal to 0"),
        (b"{%b}" % (ORDER % b'"much"'), "total_amount", "decimal"),
        (b'{"command": "CreateOrder", "data": {"order_id": "o-1", "customer_id": "c-1"}}', "total_amount", "needs it"),
        (b'{%b, "comand_id": "x"}' % (ORDER % b"1"), "comand_id", "command_id"),
        (b'{%b, "command_id": "%b"}' % (ORDER % b"1", b"x" * 201), "command_id", "at most 200 bytes"),
        (b'{%b, "command_id": "a\\u0000b"}' % (ORDER % b"1"), "command_id", "NUL"),
        (b'{%b, "command_id": "\\ud800"}' % (ORDER % b"1"), "'command_id'", "lone surrogates"),
        (b'{"command": "CreateOrder", "data": {"order_id": "\\ud800"}}', "'order_id'", "lone surrogates"),
        (b'{%b, "occurred_at": "1997-01-18T00:00:00"}' % (ORDER % b"1"), "occurred_at", "timezone"),
        (b'{%b, "expected_version": -1}' % (ORDER % b"1"), "expected_version", "greater than or equal to 0"),
        (b'{%b, "timeout_s": 0}' % (ORDER % b"1"), "timeout_s", "greater than 0"),
    ],
)
def test_a_bad_line_names_field_value_and_what_was_expected(text: bytes, field: str, expectation: str) -> None:
    said = reason(text)
    assert said.startswith(f"{field}: ")
    assert expectation in said


@pytest.mark.parametrize("customer_id", ["x" * 201, "a\\u0000b", "\\n"])
def test_an_id_that_may_name_nothing_is_refused(customer_id: str) -> None:
    data = f'{{"customer_id": "{customer_id}", "name": "Ada", "email": "ada@example.com"}}'
    assert reason(f'{{"command": "CreateCustomer", "data": {data}}}'.encode()).startswith("customer_id: ")


async def lines_of(descriptor: int) -> list[Line | BadLine]:
    return [line async for line in read_lines(descriptor, REGISTRY, lambda size: None)]


async def test_lines_of_a_file_keep_their_numbers_past_empty_and_endless_ones(tmp_path: Path) -> None:
    good = b"{%b}" % (ORDER % b"1")
    path = tmp_path / "commands.jsonl"
    path.write_bytes(b"\n".join([good, b"", b"x" * (2 * REGISTRY.payload_size_max_bytes), good, b"{", good]))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lines = await lines_of(descriptor)
    finally:
        os.close(descriptor)
    assert [(line.number, isinstance(line, Line)) for line in lines] == [
        (1, True),
        (3, False),
        (4, True),
        (5, False),
        (6, True),
    ]


async def test_a_pipe_is_read_without_blocking_the_event_loop() -> None:
    out, into = os.pipe()
    try:
        reading = asyncio.create_task(lines_of(out))
        await asyncio.sleep(0)  # let it begin, so that it waits for the pipe
        os.write(into, b"{%b}\n{%b" % (ORDER % b"1", ORDER % b"2"))
    finally:
        os.close(into)
    lines = await reading
    os.close(out)
    assert [line.number for line in lines] == [1, 2]
    assert isinstance(lines[0], Line)
    assert isinstance(lines[1], BadLine)
