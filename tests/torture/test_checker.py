"""The checker finds each kind of damage, and nothing where there is none."""

from __future__ import annotations

import ast
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.torture import checker, checks, evidence, history, journal
from tests.torture.checker import collect, judge, keep, kept
from tests.torture.checks import Kind
from tests.torture.scene import SHARDS, Scene, shard_of, write_mails

ADA = {"customer_id": "ada", "name": "Ada", "email": "ada@example.com"}
CARL = {"customer_id": "carl", "name": "Carl", "email": "carl@example.com"}
ADAS, CARLS = shard_of("ada"), shard_of("carl")


def order(number: int, customer: str = "ada", amount: str = "12.5") -> dict[str, str]:
    return {"order_id": f"{customer}-{number}", "customer_id": customer, "total_amount": amount}


def told() -> Scene:
    """A run in which much happens and nothing goes wrong."""
    scene = Scene()
    scene.refused("d1", "early", "CreateOrder", **order(1))
    scene.done("d1", "create-ada", "CreateCustomer", **ADA)
    scene.refused("d2", "create-ada-again", "CreateCustomer", **ADA)
    scene.done("d2", "create-carl", "CreateCustomer", **CARL)
    scene.done("d1", "order-1", "CreateOrder", **order(1))
    # A retry of what is in the log, by another driver
    again = scene.send("d2", "order-1", "CreateOrder", **order(1))
    scene.receive("d2", again, duplicate=True)
    # An id that was used with another payload
    reused = scene.send("d2", "order-1", "CreateOrder", **order(1, amount="99"))
    scene.fail("d2", reused, "CommandIdReused", "used", "order-1", "order-ada-1")
    # Three that are under way together
    together = [scene.send("d1", f"order-{n}", "CreateOrder", **order(n)) for n in (2, 3)]
    together.append(scene.send("d1", "vip", "PromoteToVip", customer_id="ada", reason="loyal"))
    for number in together:
        scene.decide("d1", number)
    for number in reversed(together):
        scene.receive("d1", number)
    # A command that changes nothing
    same = scene.send("d1", "same", "ChangeEmail", customer_id="ada", email="ada@example.com")
    place = {"stream": "customer-ada", "version": 2, "shard": ADAS, "position": scene.heads[ADAS]}
    scene.line("d1", "receipt", n=same, **place, store="store-1", duplicate=False)
    # Outcomes that nobody learns of: one is in the log, one is not
    lost = scene.send("d1", "order-4", "CreateOrder", **order(4))
    scene.send("d1", "order-5", "CreateOrder", **order(5))
    scene.decide("d1", lost)
    scene.fail("d1", lost, "CommandTimeout", "no answer")
    # A version that is not met
    stale = scene.send("d2", "stale", "PromoteToVip", expecting=7, customer_id="ada", reason="")
    scene.fail("d2", stale, "ConcurrencyError", "", "customer-ada", 7, 2)
    scene.done("d1", "leave", "DeactivateCustomer", customer_id="carl", reason="")
    scene.refused("d2", "too-late", "CreateOrder", **order(1, "carl"))
    last = scene.done("d1", "order-6", "CreateOrder", **order(6))
    after = next(line for line in scene.journals["d1"] if line["do"] == "receipt" and line["n"] == last)
    scene.line("d1", "query", q=0, key="ada", **{name: after[name] for name in evidence.Receipt._fields})
    scene.line("d1", "row", q=0, row={"name": "Ada", "type": "Vip", "total_orders": 5, "total_spent": "62.5"})
    return scene


def found(scene: Scene, directory: Path, *statements: str, read_models: str = "") -> set[tuple[Kind, str]]:
    """Leave the scene behind, damage its store, and have it judged."""
    scene.write(directory)
    for name, script in (("torture.db", ";".join(statements)), ("torture.read.db", read_models)):
        with closing(sqlite3.connect(directory / name)) as connection:
            connection.executescript(script)
    return set(judge(collect(directory)))


def expect(findings: set[tuple[Kind, str]], kind: Kind, text: str) -> None:
    assert any(each == kind and text in said for each, said in findings), findings


def test_a_run_without_damage_is_found_good(tmp_path: Path) -> None:
    assert found(told(), tmp_path) == set()


LAST = f"(SELECT head FROM shards WHERE shard = {ADAS})"
COPY = (
    "SELECT shard, {position}, stream, {version}, partition_key, {event_id}, type, data, metadata, {key}, recorded_at"
)


def copied(command_id: str, key: str = "NULL", event_id: str = "x'ff'") -> list[str]:
    """Statements that append the event of a command once more, at the end of its stream and shard."""
    version = "1 + (SELECT max(version) FROM events AS e WHERE e.stream = events.stream)"
    row = COPY.format(position=f"1 + {LAST}", version=version, event_id=event_id, key=key)
    return [
        f"INSERT INTO events {row} FROM events WHERE command_key = '{command_id}'",
        f"UPDATE shards SET head = head + 1 WHERE shard = {ADAS}",
    ]


def swapped(first: int, second: int, shard: int = ADAS) -> list[str]:
    """Statements that let two events of a shard change places."""
    where = f"WHERE shard = {shard} AND position"
    steps = ((first, -1), (second, first), (-1, second))
    return [f"UPDATE events SET position = {to} {where} = {position}" for position, to in steps]


OF_A_REFUSED = (
    """UPDATE events SET metadata = '{"command_id": "early"}', command_key = 'early' WHERE command_key = 'order-1'"""
)
STORE_DAMAGES: dict[str, tuple[list[str], Kind, str]] = {
    "an acknowledged event is gone from the end": (
        ["DELETE FROM events WHERE command_key = 'order-6'", f"UPDATE shards SET head = head - 1 WHERE shard = {ADAS}"],
        Kind.LOST,
        "'order-6'",
    ),
    "an acknowledged event is gone from the middle": (
        ["DELETE FROM events WHERE command_key = 'order-2'"],
        Kind.LOST,
        "'order-2'",
    ),
    "positions have a gap": (["DELETE FROM events WHERE command_key = 'order-4'"], Kind.MISMATCH, "its positions are"),
    "versions have a gap": (
        ["UPDATE events SET version = 3 WHERE command_key = 'vip'"],
        Kind.MISMATCH,
        "in the order of positions its versions are [1, 3]",
    ),
    "a head is ahead of the log": ([f"UPDATE shards SET head = head + 1 WHERE shard = {ADAS}"], Kind.MISMATCH, "head"),
    "a command's event is there twice": (copied("order-2"), Kind.DOUBLED, "'order-2' on order-ada-2: 2 events of 1"),
    "a command's event is there twice, under its key": (
        copied("order-2", key="command_key"),
        Kind.DOUBLED,
        "keyed ['order-2', 'order-2']",
    ),
    "an event's id is there twice": (
        copied("order-2", event_id="event_id"),
        Kind.DOUBLED,
        "is in the log 2 times",
    ),
    "an event lacks its command's key": (
        ["UPDATE events SET command_key = NULL WHERE command_key = 'order-2'"],
        Kind.MISMATCH,
        "keyed []",
    ),
    "an event that nobody asked for": (
        [s.replace("metadata,", """'{"command_id": "nobody"}',""") for s in copied("order-2")],
        Kind.MISMATCH,
        "nobody sent its command 'nobody'",
    ),
    "an event of a refused command": (
        [OF_A_REFUSED],
        Kind.MISMATCH,
        "its command was refused",
    ),
    "an event holds something else than was sent": (
        ["UPDATE events SET data = replace(data, '12.5', '12.6') WHERE command_key = 'order-2'"],
        Kind.MISMATCH,
        "does not cause",
    ),
    "an event that the rules forbid": (
        ["UPDATE events SET type = 'CustomerDeactivated', data = '{\"customer_id\": \"ada\", \"reason\": \"\"}' "
         "WHERE command_key = 'create-ada'"],
        Kind.MISMATCH,
        "does not cause",
    ),
    "a stream is in another key's shard": (
        [f"UPDATE events SET partition_key = 'carl' WHERE command_key = 'order-6' AND {ADAS} <> {CARLS}"],
        Kind.MISMATCH,
        "is of another shard",
    ),
    "what was sent after an answer is before it": (swapped(2, 3), Kind.REORDERED, "was sent after the receipt of"),
    "what was submitted later is before": (swapped(3, 4), Kind.REORDERED, "was submitted after"),
}  # fmt: skip


@pytest.mark.parametrize("damage", STORE_DAMAGES)
def test_damage_to_the_log_is_found(damage: str, tmp_path: Path) -> None:
    statements, kind, text = STORE_DAMAGES[damage]
    expect(found(told(), tmp_path, *statements), kind, text)


READ_DAMAGES = {
    "a sum is off": ("UPDATE customers SET total_spent = total_spent + 1", "where the log comes to"),
    "an order is not counted": ("UPDATE customers SET total_orders = total_orders - 1", "where the log comes to"),
    "a moment is off": (
        "UPDATE customers SET last_promoted_at = created_at WHERE id = 'ada'",
        "where the log comes to",
    ),
    "a row is missing": ("DELETE FROM customers WHERE id = 'carl'", "the read model has None"),
    "a row is of nobody": ("UPDATE customers SET id = 'eve' WHERE id = 'carl'", "log comes to None"),
    "a checkpoint is behind": (f"UPDATE checkpoints SET position = 0 WHERE shard = {ADAS}", "checkpoint 0, head"),
}


@pytest.mark.parametrize("damage", READ_DAMAGES)
def test_damage_to_the_read_model_is_found(damage: str, tmp_path: Path) -> None:
    statement, text = READ_DAMAGES[damage]
    expect(found(told(), tmp_path, read_models=statement), Kind.MISMATCH, text)


Change = Callable[[Scene], Any]


def answered(driver: str, command_id: str, **changes: Any) -> Change:
    """Change the answer to the first sending of a command."""

    def change(scene: Scene) -> None:
        lines = scene.journals[driver]
        number = next(line["n"] for line in lines if line["do"] == "send" and line["id"] == command_id)
        next(line for line in lines if line["do"] in ("receipt", "failed") and line["n"] == number).update(changes)

    return change


def refuse(error: str, message: str, *args: object) -> dict[str, Any]:
    return {"do": "failed", "error": error, "message": message, "args": args}


def two_firsts(scene: Scene) -> None:
    answered("d2", "order-1", duplicate=False)(scene)


def right_too_late(scene: Scene) -> None:
    """Refuse what was refused rightly, but with an answer that came before it was right."""
    lines = scene.journals["d2"]
    sent = next(line for line in lines if line["do"] == "send" and line["id"] == "create-ada-again")
    sent["at"] = -2
    next(line for line in lines if line["do"] == "failed" and line["n"] == sent["n"])["at"] = -1


def right_too_early(scene: Scene) -> None:
    """Refuse an order because its customer is not there, long after that was so."""
    number = scene.send("d2", "blind", "CreateOrder", **order(7))
    scene.fail("d2", number, "DomainError", "Customer ada does not exist.")


def told_row(**changes: Any) -> Change:
    def change(scene: Scene) -> None:
        scene.journals["d1"][-1]["row"] = {**scene.journals["d1"][-1]["row"], **changes}

    return change


def told_nothing(scene: Scene) -> None:
    scene.journals["d1"][-1]["row"] = None


JOURNAL_DAMAGES: dict[str, tuple[Change, Kind, str]] = {
    "a receipt of what never was": (answered("d2", "too-late", do="receipt", stream="order-carl-1", version=1,
        shard=CARLS, position=1, store="store-1", duplicate=False), Kind.LOST, "'too-late'"),
    "a receipt with another version": (answered("d1", "order-2", version=2), Kind.MISMATCH, "its receipt says"),
    "a receipt with another position": (answered("d1", "order-2", position=1), Kind.MISMATCH, "its receipt says"),
    "a receipt of another store": (answered("d1", "order-2", store="other"), Kind.MISMATCH, "names store other"),
    "a receipt that says nothing happened, with another version": (
        answered("d1", "same", version=1), Kind.MISMATCH, "version 1 by its receipt, 2"),
    "a receipt that says nothing happened, of before it was sent": (
        answered("d1", "same", position=1, version=1), Kind.MISMATCH, "is not of the time between"),
    "a receipt that says nothing happened, beyond the log": (
        answered("d1", "same", position=99), Kind.LOST, "'same'"),
    "two answers as the first": (two_firsts, Kind.DOUBLED, "were both answered as the first"),
    "a refusal that never was right": (
        answered("d1", "early", message="Customer ada is deactivated."), Kind.MISMATCH, "which was right at no"),
    "a refusal that was right only later": (right_too_late, Kind.MISMATCH, "which was right at no"),
    "a refusal that was right only before": (right_too_early, Kind.MISMATCH, "which was right at no"),
    "a refusal for a version that it never had": (
        answered("d2", "stale", args=["customer-ada", 7, 3]), Kind.MISMATCH, "which was right at no"),
    "a refusal for a version that was met": (
        answered("d1", "early", **refuse("ConcurrencyError", "", "order-ada-1", None, 0)),
        Kind.MISMATCH, "which was right at no"),
    "an id refused as used that was not": (
        answered("d2", "too-late", **refuse("CommandIdReused", "")), Kind.MISMATCH, "which was right at no"),
    "an id refused as used with the payload it was used with": (
        answered("d2", "order-1", **refuse("CommandIdReused", "")), Kind.MISMATCH, "which was right at no"),
    "an error that has no place here": (
        answered("d1", "early", error="DecideFailed"), Kind.MISMATCH, "was answered with DecideFailed"),
    "a row that was read before it was there": (told_row(total_orders=1), Kind.MISMATCH, "at no position up to"),
    "no row where there was one": (told_nothing, Kind.MISMATCH, "at no position up to"),
}  # fmt: skip


@pytest.mark.parametrize("damage", JOURNAL_DAMAGES)
def test_a_wrong_answer_is_found(damage: str, tmp_path: Path) -> None:
    change, kind, text = JOURNAL_DAMAGES[damage]
    scene = told()
    change(scene)
    expect(found(scene, tmp_path), kind, text)


Mails = list[dict[str, str]]
MAIL_DAMAGES: dict[str, tuple[Callable[[Mails], Mails], Kind, str]] = {
    "none was sent": (lambda mails: mails[1:], Kind.LOST, "no mail was sent"),
    "a later one was sent first": (lambda mails: mails[::-1], Kind.REORDERED, "before an earlier one"),
    "one was sent of what never was": (
        lambda mails: [*mails, {"event": str(UUID(int=999)), "key": "never"}], Kind.MISMATCH, "not in the log"),
    "a repetition looks like another one": (
        lambda mails: [*mails, {**mails[0], "key": "new"}], Kind.MISMATCH, "don't show that they are the same"),
    "two look like the same": (
        lambda mails: [mails[0], {**mails[1], "key": mails[0]["key"]}], Kind.MISMATCH, "claim to be the same"),
}  # fmt: skip


@pytest.mark.parametrize("damage", MAIL_DAMAGES)
def test_a_mail_that_is_wrong_is_found(damage: str, tmp_path: Path) -> None:
    change, kind, text = MAIL_DAMAGES[damage]
    scene = told()
    scene.write(tmp_path)
    write_mails(tmp_path, change(scene.mails()))
    expect({*judge(collect(tmp_path))}, kind, text)


def spending() -> tuple[Scene, str]:
    """A customer whose second order brings it to 500 dollars, and the id of the promotion that follows."""
    scene = Scene()
    scene.done("d1", "create", "CreateCustomer", **ADA)
    scene.done("d1", "order-1", "CreateOrder", **order(1, amount="499.99"))
    scene.done("d1", "order-2", "CreateOrder", **order(2, amount="0.01"))
    return scene, f"{UUID(bytes=scene.events[-1][5])}:LoyaltyProgramme:0"


def promote(scene: Scene, command_id: str, reason: str = "ordered for 500 dollars or more") -> None:
    fields = {"customer_id": "ada", "reason": reason, "from_type": "Regular", "to_type": "Vip"}
    scene.append(ADAS, "customer-ada", "ada", "CustomerPromoted", fields, command_id)


def test_a_promotion_by_the_process_manager_is_asked_for_once_enough_was_spent(tmp_path: Path) -> None:
    for name, done in (("lacking", False), ("there", True)):
        directory = tmp_path / name
        directory.mkdir()
        scene, command_id = spending()
        if done:
            promote(scene, command_id)
        findings = found(scene, directory)
        assert [kind for kind, _ in findings] == ([] if done else [Kind.LOST]), findings


def test_a_customer_who_was_promoted_otherwise_needs_none(tmp_path: Path) -> None:
    scene, _ = spending()
    scene.done("d1", "vip", "PromoteToVip", customer_id="ada", reason="")
    assert found(scene, tmp_path) == set()


def test_a_promotion_that_does_not_follow_is_found(tmp_path: Path) -> None:
    for name, change, text in (
        ("another reason", lambda id_: (id_, "why not"), "does not cause"),
        ("another order", lambda id_: (f"{UUID(int=1)}{id_[36:]}", "ordered for 500 dollars or more"), "nobody sent"),
    ):
        directory = tmp_path / name
        directory.mkdir()
        scene, command_id = spending()
        promote(scene, *change(command_id))
        expect(found(scene, directory), Kind.MISMATCH, text)


def test_what_was_kept_is_judged_as_it_was(tmp_path: Path) -> None:
    scene = told()
    scene.write(tmp_path)
    evidence = collect(tmp_path)
    keep(evidence, tmp_path)
    (tmp_path / "torture.db").unlink()
    assert kept(tmp_path) == evidence


def test_a_mail_may_be_sent_again(tmp_path: Path) -> None:
    scene = told()
    scene.write(tmp_path)
    write_mails(tmp_path, scene.mails() * 2)
    assert judge(collect(tmp_path)) == []


def decided_again() -> Scene:
    """An order before its customer, both under way together: the order is decided again, behind."""
    scene = Scene()
    first = scene.send("d1", "order", "CreateOrder", **order(1))
    second = scene.send("d1", "create", "CreateCustomer", **ADA)
    scene.decide("d1", second)
    scene.decide("d1", first)
    return scene


def test_a_command_that_was_refused_may_be_decided_again_behind_a_later_one_after_a_loss_only(tmp_path: Path) -> None:
    for name, loss in (("lost", True), ("kept", False)):
        scene = decided_again()
        if loss:
            scene.line("d1", "lost", why="a call failed")
        scene.receive("d1", 0)
        scene.receive("d1", 1, duplicate=loss)
        directory = tmp_path / name
        directory.mkdir()
        findings = found(scene, directory)
        assert [kind for kind, _ in findings] == ([] if loss else [Kind.REORDERED])


def test_a_command_that_was_never_refused_may_not_move_behind_a_later_one_even_after_a_loss(tmp_path: Path) -> None:
    scene = Scene()
    scene.done("d1", "create", "CreateCustomer", **ADA)
    numbers = [scene.send("d1", f"order-{n}", "CreateOrder", **order(n)) for n in (1, 2)]
    for number in reversed(numbers):
        scene.decide("d1", number)
    scene.line("d1", "lost", why="a call failed")
    for number in numbers:
        scene.receive("d1", number)
    expect(found(scene, tmp_path), Kind.REORDERED, "was submitted after")


def test_what_changed_nothing_leaves_no_trace_and_may_be_decided_anew(tmp_path: Path) -> None:
    scene = told()
    scene.done("d1", "create-dora", "CreateCustomer", customer_id="dora", name="Dora", email="dora@example.com")
    shard = shard_of("dora")
    same = scene.send("d1", "again", "ChangeEmail", customer_id="dora", email="dora@example.com")
    place = {"stream": "customer-dora", "version": 1, "shard": shard, "position": scene.heads[shard]}
    scene.line("d1", "receipt", n=same, **place, store="store-1", duplicate=False)
    scene.done("d2", "other", "ChangeEmail", customer_id="dora", email="d@example.com")
    scene.done("d1", "again", "ChangeEmail", customer_id="dora", email="dora@example.com")
    scene.write(tmp_path)
    assert judge(collect(tmp_path)) == []


def test_a_driver_killed_in_a_line_is_read_up_to_it(tmp_path: Path) -> None:
    scene = told()
    scene.write(tmp_path)
    with (tmp_path / "driver-d1.jsonl").open("a") as file:
        file.write('{"at": 99, "do": "sen')
    assert judge(collect(tmp_path)) == []


def test_what_a_journal_was_told_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "driver-d9.jsonl"
    with journal.Journal(path) as written:
        at_s = written.write("send", n=1)
    assert journal.read_journal(path) == [{"at": at_s, "do": "send", "n": 1}]


def test_the_judge_tells_what_it_finds_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(told(), tmp_path, *copied("order-2"))
    monkeypatch.setattr("sys.argv", ["checker", str(tmp_path)])
    assert checker.main() == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert any("'order-2' on order-ada-2: 2 events of 1" in line for line in lines)
    assert json.loads(last)["doubled"] == 1


def test_the_checker_shares_no_code_with_the_runtime() -> None:
    seen: set[str] = set()
    waiting = [str(module.__file__) for module in (checker, checks, evidence, history, journal)]
    root = Path(__file__).parents[2]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for node in ast.walk(ast.parse(Path(path).read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name.split(".")[0] not in ("store", "actors", "projections", "cluster", "ray"), (path, name)
                source = root / Path(*name.split("."))
                if name.startswith("tests.") and str(source.with_suffix(".py")) not in seen:
                    waiting.append(str(source.with_suffix(".py")))


def test_ada_and_carl_are_in_different_shards() -> None:
    assert ADAS != CARLS
    assert SHARDS == 4
