"""What is drawn and what is worked out: the schedule of faults, times without service, and what a run is worth."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.torture.checker import collect
from tests.torture.checks import Finding, Kind
from tests.torture.evidence import Evidence, Struck
from tests.torture.figures import figures, gaps, pauses, vacuous
from tests.torture.report import report
from tests.torture.run import POSTGRES, SQLITE, Outcome
from tests.torture.scene import Scene, shard_of
from tests.torture.schedule import LASTS_S, ON_POSTGRES, ON_SQLITE, Fault, draw, least


@pytest.mark.parametrize(("seconds", "count"), [(20, 1), (60, 1), (360, 3), (600, 5)])
def test_a_run_of_any_length_has_enough_of_each_kind_of_fault(seconds: float, count: int) -> None:
    assert set(ON_POSTGRES) == set(Fault)
    for faults in (ON_SQLITE, ON_POSTGRES):
        strikes = draw(7, seconds, faults)
        drawn = Counter(strike.fault for strike in strikes)
        assert least(seconds) == count
        assert all(drawn[fault] >= count for fault in faults)
        assert [strike.at_s for strike in strikes] == sorted(strike.at_s for strike in strikes)
        assert 0 < strikes[0].at_s < strikes[-1].at_s < seconds


def test_the_same_seed_draws_the_same_faults() -> None:
    assert draw(1, 60, ON_SQLITE) == draw(1, 60, ON_SQLITE) != draw(2, 60, ON_SQLITE)


def test_what_lasts_lasts_as_long_as_it_should() -> None:
    for strike in draw(3, 600, ON_POSTGRES):
        first_s, last_s = LASTS_S.get(strike.fault, (0.0, 0.0))
        assert first_s <= strike.lasts_s <= last_s


def collected(scene: Scene, directory: Path) -> Evidence:
    directory.mkdir(exist_ok=True)
    scene.write(directory)
    return collect(directory)


def waiting() -> Scene:
    """Two commands of one shard, both sent early and answered one after the other, then one of another shard."""
    scene = Scene()
    numbers = [
        scene.send("d1", f"create-{name}", "CreateCustomer", customer_id=name, name=name, email="a@example.com")
        for name in ("ada", "bob", "carl")
    ]
    for number in numbers:
        scene.decide("d1", number)
    scene.now_s = 20
    for number in numbers:
        scene.receive("d1", number, duplicate=number == 2)
    return scene


def answered_once() -> Scene:
    """A command that nobody has repeated."""
    scene = Scene()
    scene.done("d1", "create-ada", "CreateCustomer", customer_id="ada", name="ada", email="a@example.com")
    return scene


def test_a_shard_is_not_served_while_something_waits_and_nothing_is_answered(tmp_path: Path) -> None:
    evidence = collected(waiting(), tmp_path)
    found = sorted((gap.shard, gap.from_s, gap.to_s) for gap in gaps(evidence))
    assert shard_of("ada") == shard_of("bob") == 0
    assert shard_of("carl") == 1
    assert found == [(0, 1, 21), (0, 21, 22), (1, 3, 23)]
    worked = figures(evidence)
    assert (worked.commands, worked.acknowledged, worked.duplicates) == (3, 3, 1)
    assert (worked.longest.seconds, worked.p99_s) == (20, 20)


def test_pauses_are_told_apart_by_whom_the_fault_struck_and_only_of_faults_that_were_alone(tmp_path: Path) -> None:
    evidence = collected(waiting(), tmp_path)
    evidence.faults = [Struck("host killed", frozenset({1}), 2, 2)]
    assert pauses(evidence, ["host killed"]) == (1, [20], 20)
    assert pauses(evidence, ["host stopped"]) == (0, [], 0)
    evidence.faults.append(Struck("node killed", frozenset(), 4, 6))
    assert pauses(evidence, ["host killed"]) == (0, [], 0)


def test_a_run_in_which_too_little_happened_is_vacuous() -> None:
    asked = (Fault.HOST_KILLED, Fault.DRIVER_KILLED)
    done = {Fault.HOST_KILLED: 5, Fault.DRIVER_KILLED: 4}
    assert vacuous(done, asked, 600, Counter({"gap reads": 1}), ["gap reads"]) == ["4 of 'driver killed', not 5"]
    assert vacuous(done, asked, 60, Counter(), ["gap reads"]) == ["no gap reads"]


def test_a_run_is_good_only_if_nothing_is_wrong_or_left_over_and_what_must_be_seen_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = collected(waiting(), tmp_path)
    seen = Counter(["unknown outcomes", "gap reads", "handovers", "fenced appends", "killed zombies"])
    asked = (Fault.HOST_KILLED,)
    good = Outcome(evidence, [], [], [], seen, Counter(asked), Counter(), asked)
    assert report(good, POSTGRES, 60, 1)
    assert report(good, SQLITE, 60, 1)
    told = {line[:36].strip() for line in capsys.readouterr().out.splitlines()}
    assert told >= {*seen, *Kind, "host killed", "commands", "duplicates", "p99", "longest time a shard was not served"}
    for wrong in (
        {"findings": [Finding(Kind.LOST, "an order")]},
        {"left_over": ["process 7"]},
        {"troubles": ["a driver ended by itself"]},
        {"faults": Counter[Fault]()},
        {"evidence": collected(answered_once(), tmp_path / "once")},
    ):
        assert not report(good._replace(**wrong), POSTGRES, 60, 1)
    for kind, needs_not in ((POSTGRES, "killed zombies"), (SQLITE, "fenced appends")):
        unseen = [name for name in seen if not report(good._replace(seen=seen - Counter([name])), kind, 60, 1)]
        assert set(unseen) == set(seen) - {needs_not}
