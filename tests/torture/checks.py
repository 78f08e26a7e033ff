"""The checks: what each promise says of a history, and every place where it is not so.

Each takes the evidence and the history made of it, and tells what it finds; nothing found is the only good answer.
Not here: reading evidence, and what the findings come to (`checker.py`).
"""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from tests.contract.shop_rules import decided
from tests.torture.evidence import MAILED, REFUSALS, UNKNOWN, UNSENT, Evidence, Failure, Receipt, Row, Sending
from tests.torture.history import Caused, History

NOTICED_WITHIN_S = 5.0
"""How long after a fault its consequences may be met."""


class Kind(StrEnum):
    """What is wrong."""

    LOST = "lost"
    """Acknowledged, and not in the log."""
    DOUBLED = "doubled"
    """In the log twice, or answered as the first twice."""
    REORDERED = "reordered"
    MISMATCH = "mismatch"
    """Anything else that is not as it was promised."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    kind: Kind
    text: str


Findings = Iterator[Finding]


# --- the log by itself ---


def check_shape(evidence: Evidence, _history: History) -> Findings:
    """Positions and versions gapless, heads true, each stream in its key's shard, ids unique."""
    shards = len(evidence.heads)
    positions: dict[int, list[int]] = defaultdict(list)
    versions: dict[str, list[int]] = defaultdict(list)
    homes: dict[str, tuple[int, str]] = {}
    for row in evidence.rows:
        positions[row.shard].append(row.position)
        versions[row.stream].append(row.version)
        if row.shard != zlib.crc32(row.key.encode()) % shards:
            yield _mismatch(f"shard {row.shard} position {row.position}: key {row.key!r} is of another shard")
        if homes.setdefault(row.stream, (row.shard, row.key)) != (row.shard, row.key):
            yield _mismatch(f"{row.stream} is in {homes[row.stream]} and in {(row.shard, row.key)}")
    for shard, head in evidence.heads.items():
        if positions[shard] != list(range(1, head + 1)):
            yield _mismatch(f"shard {shard}: head {head}, but its positions are {_shown(positions[shard])}")
    for stream, found in versions.items():
        if found != list(range(1, len(found) + 1)):
            yield _mismatch(f"{stream}: in the order of positions its versions are {_shown(found)}")
    for event_id, count in Counter(row.event_id for row in evidence.rows).items():
        if count > 1:
            yield Finding(Kind.DOUBLED, f"event {event_id.hex()} is in the log {count} times")


def check_once(_evidence: Evidence, history: History) -> Findings:
    """No command's events are in the log twice."""
    for (command_id, stream), rows in history.rows_of.items():
        caused = rows[0].metadata.get("events", 1)
        keyed = [row.command_key for row in rows if row.command_key is not None]
        if len(rows) != caused or keyed != [command_id]:
            text = f"{command_id!r} on {stream}: {len(rows)} events of {caused} at {[row.position for row in rows]}"
            yield Finding(Kind.DOUBLED if len(rows) > caused else Kind.MISMATCH, f"{text}, keyed {keyed}")


def check_decisions(evidence: Evidence, history: History) -> Findings:
    """Each event is what one of the commands sent under its id causes, in the state that the log had before it."""
    for row in evidence.rows:
        where = f"shard {row.shard} position {row.position} ({row.type}, {row.stream} version {row.version})"
        sendings = history.sendings_of.get((row.command_id, row.stream), [])
        if not sendings:
            yield _mismatch(f"{where}: nobody sent its command {row.command_id!r}")
        elif not any(sending.may_have_acted for sending in sendings):
            yield _mismatch(f"{where}: its command was refused: {sendings[0]} {sendings[0].failure}")
        elif not any(_explains(sending, row, history) for sending in sendings):
            yield _mismatch(f"{where}: {sendings[0]} does not cause {row.fields} there")


def _explains(sending: Sending, row: Row, history: History) -> bool:
    before = history.states(sending.wish, row.position - 1)
    if sending.expected_version not in (None, row.version - 1):
        return False
    return sending.may_have_acted and decided(before, sending.wish) == [(row.type, row.fields)]


# --- answers ---


def check_receipts(evidence: Evidence, history: History) -> Findings:
    """What was acknowledged is in the log, where the receipt says, and acknowledged as new once."""
    firsts: dict[Caused, Sending] = {}
    for sending in evidence.sendings:
        receipt = sending.receipt
        if receipt is None:
            continue
        caused = (sending.command_id, sending.wish.stream)
        if receipt.store != evidence.store_id or receipt.stream != sending.wish.stream:
            yield _mismatch(f"{sending}: its receipt names store {receipt.store}, stream {receipt.stream}")
        rows = history.rows_of.get(caused)
        if not rows or (receipt.position < rows[0].position and _changed_nothing(sending, receipt, history)):
            # Where there are rows, the command was decided anew later: one that changes nothing leaves no trace.
            yield from _check_no_event(sending, receipt, history)
            continue
        place, said = (rows[-1].shard, rows[-1].position, rows[-1].version), (*receipt[2:4], receipt.version)
        if place != said:
            yield _mismatch(f"{sending}: its receipt says (shard, position, version) {said}, the log {place}")
        if not receipt.duplicate and firsts.setdefault(caused, sending) is not sending:
            yield Finding(Kind.DOUBLED, f"{sending} and {firsts[caused]} were both answered as the first")


def _check_no_event(sending: Sending, receipt: Receipt, history: History) -> Findings:
    """A receipt without events is right where the command changed nothing; else what it says is lost."""
    states = history.states(sending.wish, receipt.position)
    if receipt.position > history.heads.get(receipt.shard, 0) or not _changed_nothing(sending, receipt, history):
        yield Finding(Kind.LOST, f"{sending} was acknowledged at {receipt[2:4]}, and has no events")
    elif states[sending.wish.stream].version != receipt.version:
        yield _mismatch(f"{sending}: version {receipt.version} by its receipt, {states[sending.wish.stream].version}")
    elif not _within(history, receipt.shard, sending, receipt.position):
        yield _mismatch(f"{sending}: position {receipt.position} is not of the time between its sending and its answer")


def _changed_nothing(sending: Sending, receipt: Receipt, history: History) -> bool:
    return not receipt.duplicate and decided(history.states(sending.wish, receipt.position), sending.wish) == []


def check_refusals(evidence: Evidence, history: History) -> Findings:
    """Each refusal was right at some point between its sending and its answer."""
    for sending in evidence.sendings:
        answer = sending.answer
        if not isinstance(answer, Failure) or answer.error in UNKNOWN + UNSENT:
            continue
        if answer.error not in REFUSALS:
            yield _mismatch(f"{sending} was answered with {answer.error}: {answer.message}")
            continue
        shard = zlib.crc32(sending.wish.key.encode()) % len(evidence.heads)
        first, last = _window(history, shard, sending)
        if not any(_right(sending, answer, history, at) for at in history.changes(sending.wish, first, last)):
            where = f"at no position of shard {shard} from {first} to {last}"
            yield _mismatch(f"{sending} was refused ({answer.message}), which was right {where}")


def _window(history: History, shard: int, sending: Sending) -> tuple[int, int]:
    """From which to which position of its shard a sending can have been decided after."""
    assert sending.answered_s is not None
    first = history.known_at(shard, sending.sent_s)
    return first, max(first, history.reached_at(shard, sending.answered_s))


def _within(history: History, shard: int, sending: Sending, position: int) -> bool:
    first, last = _window(history, shard, sending)
    return first <= position <= last


def _right(sending: Sending, refusal: Failure, history: History, position: int) -> bool:
    """Whether the refusal is what the rules say in the state that the log had at that position."""
    states = history.states(sending.wish, position)
    version = states[sending.wish.stream].version
    if refusal.error == "CommandIdReused":
        caused = (sending.command_id, sending.wish.stream)
        others = [other for other in history.sendings_of[caused] if other.wish != sending.wish]
        rows = [row for row in history.rows_of.get(caused, []) if row.position <= position]
        return any(_explains(other, row, history) for other in others for row in rows)
    if refusal.error == "ConcurrencyError":
        stale = sending.expected_version not in (None, version)
        return stale and refusal.args == (sending.wish.stream, sending.expected_version, version)
    fits = sending.expected_version in (None, version)
    return fits and decided(states, sending.wish) == refusal.message


def check_readings(evidence: Evidence, history: History) -> Findings:
    """Each row that was read after a receipt is the fold of the log at some point from the receipt to the answer."""
    for reading in evidence.readings:
        shard, first = reading.after.shard, reading.after.position
        last = max(first, history.reached_at(shard, reading.answered_s))
        rows = (
            history.customer(reading.customer_id, at)
            for at in history.customer_changes(reading.customer_id, first, last)
        )
        if not any(_same_row(reading.row, row) for row in rows):
            text = f"{reading.driver} read {reading.row} of {reading.customer_id} after position {first}"
            yield _mismatch(f"{text}, which it was at no position up to {last}")


def _same_row(read: object, folded: dict[str, object] | None) -> bool:
    if not isinstance(read, dict) or folded is None:
        return read is folded
    return all(folded.get(name) == value for name, value in read.items())


# --- order ---


class Placed(NamedTuple):
    """A command that caused events, and the sendings that they may come from."""

    row: Row
    sendings: list[Sending]


def _placed(history: History) -> dict[int, list[Placed]]:
    """By shard, from the last position to the first."""
    shards: dict[int, list[Placed]] = defaultdict(list)
    for caused, rows in history.rows_of.items():
        if sendings := [
            each for each in history.sendings_of.get(caused, []) if _may_have_caused(each, rows[0], history)
        ]:
            shards[rows[0].shard].append(Placed(rows[0], sendings))
    for placed in shards.values():
        placed.sort(key=lambda each: -each.row.position)
    return shards


def _may_have_caused(sending: Sending, row: Row, history: History) -> bool:
    """Whether the event may come from this sending: it was not refused, nor answered before as changing nothing."""
    receipt = sending.receipt
    before = receipt is not None and receipt.position < row.position and _changed_nothing(sending, receipt, history)
    return sending.may_have_acted and not before


def check_order_of_answers(_evidence: Evidence, history: History) -> Findings:
    """A command that was sent after another one's receipt is behind it in the log, whoever sent either."""
    for placed in _placed(history).values():
        earliest_s, earliest = math.inf, None
        for command in placed:
            sent_s = min(sending.sent_s for sending in command.sendings)
            if earliest is not None and earliest_s < sent_s:
                text = f"{command.sendings[0]} was sent after the receipt of {earliest.sendings[0]}"
                yield Finding(Kind.REORDERED, f"{text}, and is before it: {_places(command, earliest)}")
            receipts_s = [s.answered_s for s in command.sendings if s.receipt is not None and s.answered_s is not None]
            if min(receipts_s, default=math.inf) < earliest_s:
                earliest_s, earliest = min(receipts_s), command


def check_order_of_submission(evidence: Evidence, history: History) -> Findings:
    """Commands of one driver to one key are in the log in the order of submission, but for the one exception.

    The exception: where an outcome was lost, a command that had been refused may be decided again behind a later one.
    """
    for placed in _placed(history).values():
        lanes: dict[tuple[str, str], list[Placed]] = defaultdict(list)
        for command in placed:
            drivers = {sending.driver for sending in command.sendings}
            if len(drivers) == 1:
                lanes[drivers.pop(), command.row.key].append(command)
        for lane in lanes.values():
            yield from _check_lane(lane, evidence, history)


def _check_lane(lane: Iterable[Placed], evidence: Evidence, history: History) -> Findings:
    """Check one driver's commands to one key, from the last position to the first."""
    behind: list[Placed] = []
    for command in lane:
        begun = min(sending.number for sending in command.sendings)
        begun_s = min(sending.sent_s for sending in command.sendings)
        for other in behind:
            submitted = max(_deciding(other), key=lambda sending: sending.number)
            given_up = submitted.failure in UNKNOWN and (submitted.answered_s or math.inf) < begun_s
            if submitted.number < begun and not given_up and not _decided_again(other, command, evidence, history):
                text = f"{command.sendings[0]} was submitted after {submitted}"
                yield Finding(Kind.REORDERED, f"{text}, and is before it: {_places(command, other)}")
        behind.append(command)


def _deciding(command: Placed) -> list[Sending]:
    """The sendings up to the first that has a receipt: its events come from one of them."""
    upto = [index for index, sending in enumerate(command.sendings) if sending.receipt is not None]
    return command.sendings[: upto[0] + 1] if upto else command.sendings


def _decided_again(earlier: Placed, later: Placed, evidence: Evidence, history: History) -> bool:
    """Whether `earlier` can have been refused before `later` was decided, and decided again after a loss."""
    sending = _deciding(earlier)[-1]
    until_s = sending.answered_s or math.inf
    lost = any(sending.sent_s <= at_s <= until_s for at_s in evidence.losses.get(sending.driver, ()))
    struck = any(
        fault.from_s <= until_s and sending.sent_s <= fault.to_s + NOTICED_WITHIN_S for fault in evidence.faults
    )
    if not lost and not struck:
        return False
    first, last = history.known_at(later.row.shard, sending.sent_s), later.row.position - 1
    return any(_leaves_no_trace(sending, history, at) for at in history.changes(sending.wish, first, last))


def _leaves_no_trace(sending: Sending, history: History, position: int) -> bool:
    """Whether the command is refused, or changes nothing, in the state that the log had at that position."""
    states = history.states(sending.wish, position)
    outcome = decided(states, sending.wish)
    refused = sending.expected_version not in (None, states[sending.wish.stream].version)
    return refused or not outcome or isinstance(outcome, str)


def _places(first: Placed, second: Placed) -> str:
    return f"shard {first.row.shard}, {first.row.position} before {second.row.position}"


# --- read models ---


def check_read_model(evidence: Evidence, history: History) -> Findings:
    """The read model is the fold of the whole log, row by row, and its checkpoints say so."""
    folded = history.customers()
    for customer_id in sorted(folded.keys() | evidence.customers.keys()):
        held, expected = evidence.customers.get(customer_id), folded.get(customer_id)
        if held != expected:
            yield _mismatch(f"the read model has {held} where the log comes to {expected}")
    for shard, head in evidence.heads.items():
        if evidence.checkpoints.get(shard, 0) != head:
            yield _mismatch(f"shard {shard}: checkpoint {evidence.checkpoints.get(shard)}, head {head}")


# --- handlers ---


def check_mails(evidence: Evidence, _history: History) -> Findings:
    """Of each event that has a mail one was sent, the first ones in the order of its partition key, and no other."""
    if evidence.mails is None:
        return
    keys: dict[bytes, str] = {}
    for mail in evidence.mails:
        if keys.setdefault(mail.event_id, mail.key) != mail.key:
            yield _mismatch(f"the mails of event {mail.event_id.hex()} don't show that they are the same")
    if len(set(keys.values())) != len(keys):
        yield _mismatch("mails of several events claim to be the same")
    places = {event_id: place for place, event_id in enumerate(keys)}
    last: dict[str, Row] = {}
    for row in evidence.rows:
        if row.type not in MAILED:
            continue
        if row.event_id not in places:
            yield Finding(Kind.LOST, f"shard {row.shard} position {row.position} ({row.type}): no mail was sent")
            continue
        before = last.get(row.key)
        if before is not None and places[before.event_id] > places[row.event_id]:
            yield Finding(Kind.REORDERED, f"a mail was sent before an earlier one: {before.position}, {row.position}")
        last[row.key] = row
    known = {row.event_id for row in evidence.rows if row.type in MAILED}
    for event_id in keys.keys() - known:
        yield _mismatch(f"a mail was sent of event {event_id.hex()}, which is not in the log")


# --- process managers ---


def check_promotions(evidence: Evidence, history: History) -> Findings:
    """Whoever has spent enough is a VIP, by the process manager where nobody else had seen to it, and not before."""
    if evidence.mails is None:
        return
    for order, sending in history.issued:
        where = f"shard {order.shard} position {order.position}"
        rows = history.rows_of.get((sending.command_id, sending.wish.stream), [])
        state = history.state(sending.wish.stream, history.heads[order.shard])
        if not rows and state.active and not state.vip:
            yield Finding(Kind.LOST, f"{where}: with this order {order.key} has spent enough, and was not promoted")
        if rows and rows[0].position < order.position:
            yield _mismatch(f"{where}: {order.key} was promoted for this order before it was there")


CHECKS = (
    check_shape,
    check_once,
    check_decisions,
    check_receipts,
    check_refusals,
    check_readings,
    check_order_of_answers,
    check_order_of_submission,
    check_read_model,
    check_mails,
    check_promotions,
)


def _mismatch(text: str) -> Finding:
    return Finding(Kind.MISMATCH, text)


def _shown(numbers: list[int]) -> str:
    return str(numbers) if len(numbers) <= 12 else f"{numbers[:6]} ... {numbers[-6:]} ({len(numbers)})"
