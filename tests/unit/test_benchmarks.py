"""What the benchmarks make of their figures: floors, the table, pictures; and that the peers do what we do."""

import asyncio
import importlib.util
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from actors.customers import CreateCustomer
from benchmarks import check, suite, table
from benchmarks.check import Floor, broken, read_floors
from benchmarks.eventsource_py_shop import EventsourcePyShop
from benchmarks.eventsourcing_shop import CACHE, EventsourcingShop
from benchmarks.latency import curve_of
from benchmarks.load import submit_paced, workload
from benchmarks.peer import peer_settings
from benchmarks.places import Place
from benchmarks.plots import write_plots
from benchmarks.reporting import percentile, spread, spreads
from benchmarks.suite import RUNS

ROOT = Path(__file__).parents[2]
RATIO = Floor("commands-sqlite", "over_eventsourcing_each", at_least=8.0)
LONE = Floor("latency-sqlite", "lone_command_over_call_plus_commit", at_most=2.5)


def report(**figures: float) -> dict[str, Any]:
    return {"figures": {name: spread([value]) for name, value in figures.items()}}


def test_a_floor_is_held_at_its_bound_and_broken_beyond_it_and_the_message_names_figure_value_and_floor() -> None:
    assert RATIO.broken_by(8.0) is None
    assert RATIO.broken_by(7.9) == "commands-sqlite: over_eventsourcing_each is 7.9, at least 8 is wanted"
    assert LONE.broken_by(2.5) is None
    assert LONE.broken_by(2.6) == "latency-sqlite: lone_command_over_call_plus_commit is 2.6, at most 2.5 is wanted"


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_figure_that_is_missing_or_no_number_breaks_its_floor(value: float | None) -> None:
    assert RATIO.broken_by(value) is not None
    assert LONE.broken_by(value) is not None


def test_only_floors_of_the_run_are_compared_with_it() -> None:
    assert broken([RATIO, LONE], "commands-sqlite", report(over_eventsourcing_each=9.0)) == []
    assert len(broken([RATIO, LONE], "commands-sqlite", report(over_eventsourcing_each=1.0))) == 1
    assert len(broken([RATIO, LONE], "latency-sqlite", report())) == 1


def test_a_broken_floor_is_tried_once_more_and_then_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([1.0, 9.0, 1.0, 2.0])
    monkeypatch.setattr(check, "run", lambda *_: report(over_eventsourcing_each=next(rates)))
    assert check.check([RATIO], []) == []
    assert check.check([RATIO], []) == ["commands-sqlite: over_eventsourcing_each is 2, at least 8 is wanted"]


def test_a_broken_floor_ends_the_program_with_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "run", lambda *_: report())
    monkeypatch.setattr("sys.argv", ["check", "--only", "commands-sqlite"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == 1
    assert "too slow: commands-sqlite: over_eventsourcing_each was not measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ('run = "commands-sqlite"\nfigure = "x"', "give either at_least or at_most"),
        ('run = "commands-sqlite"\nfigure = "x"\nat_least = 1\nat_most = 2', "give either at_least or at_most"),
        ('run = "comands"\nfigure = "x"\nat_least = 1', "comands: give one of "),
    ],
)
def test_a_floor_that_bounds_nothing_is_refused(tmp_path: Path, entry: str, problem: str) -> None:
    path = tmp_path / "floors.toml"
    path.write_text(f"[[floor]]\n{entry}\n")
    with pytest.raises(SystemExit, match=problem):
        read_floors(path)


def test_the_results_that_are_kept_hold_the_floors_that_are_kept() -> None:
    results = table.read_results()
    floors = read_floors(check.FLOORS)
    assert floors
    for name, kept in results.items():
        assert broken(floors, name, kept) == []


def test_readme_and_results_have_the_table_that_follows_from_the_results() -> None:
    rendered = table.rendered(table.read_results())
    assert (table.RESULTS / "table.md").read_text() == rendered + "\n"
    page = (ROOT / "README.md").read_text()
    assert table.with_table(page, table.with_pictures(rendered)) == page


def test_results_name_no_directory_and_are_small() -> None:
    paths = list(table.RESULTS.iterdir())
    assert sum(path.stat().st_size for path in paths) < 500_000
    for path in table.RESULTS.glob("*.json"):
        assert not re.search(r'"[^"]*(/tmp|/home|/root|/work|host=)[^"]*"', path.read_text()), path.name


def test_the_table_shows_what_was_measured_and_leaves_out_what_was_not() -> None:
    sqlite = report(commands_per_s=31_234.5, over_eventsourcing_each=16.44)
    sqlite["measured_on"] = {
        "cpus": 2, "processor": "a processor", "system": "Linux 6", "python": "3.11", "durability": "fsync",
    }  # fmt: skip
    scale = {"points": [{"cpu_us_per_command": {"all": {"median": 60.0, "min": 50.0, "max": 70.0}}}]}
    naive = {"ours_over_naive": {"commands_per_s": 5.5}}
    shown = table.rendered(
        {
            "commands-sqlite": sqlite,
            "commands-postgres": report(commands_per_s=4.5),
            "naive-sqlite": naive,
            "scale-sqlite": {"points": 4 * scale["points"]},
        }
    )
    assert (
        "| commands/s, one driver, 1,000 in flight, 2 hosts | 30,000 "
        "| 31,234 (31,234 to 31,234) | 4.50 (4.50 to 4.50) |" in shown
    )
    assert "| 16.4 (16.4 to 16.4) |  |" in shown
    assert "| commands/s / one Ray actor for each of 50 customers |  | 5.50 |  |" in shown
    assert "| … 8 hosts on 4 nodes | as much | 60.0 (50.0 to 70.0) |  |" in shown
    assert "lone command" not in shown
    assert "2 cores (a processor), Linux 6; Python 3.11. fsync." in shown


def test_the_table_goes_between_its_marks_and_a_page_without_them_is_refused() -> None:
    page = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    again = table.with_table(table.with_table(page, "new"), "new")
    assert again == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
    with pytest.raises(SystemExit, match="no place"):
        table.with_table("a page", "new")


def test_every_run_is_of_a_module_that_is_there_and_has_a_name_of_its_own() -> None:
    assert len({each.name for each in RUNS}) == len(RUNS)
    for each in RUNS:
        assert importlib.util.find_spec(f"benchmarks.{each.module}") is not None, each.module


def test_a_benchmark_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(SystemExit, match=r"benchmarks\.nothing --events 1 failed with 1:\n.*No module named"):
        suite.run("nothing", ("--events", "1"))


def test_pictures_are_drawn_of_the_results_that_are_there(tmp_path: Path) -> None:
    rows = [
        {"in flight": flight, "commands/s": 9.0, "p50 ms": 1.0, "p90 ms": 2.0, "p99 ms": 3.0}
        | {"least commands/s": 8.0, "most commands/s": 10.0}
        for flight in (1, 10)
    ]
    assert write_plots({}, tmp_path) == []
    paths = write_plots({"latency-sqlite": {"curve": rows, "figures": {}}}, tmp_path)
    assert [path.name for path in paths] == ["throughput.png", "latency.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_rounds_become_medians_and_extremes() -> None:
    assert spreads([{"a": 1.0}, {"a": 5.0}, {"a": 2.0}]) == {"a": {"median": 2.0, "min": 1.0, "max": 5.0}}
    assert [percentile(list(range(1, 101)), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([3.0], 0.99) == 3.0
    rounds = [[{"in flight": 1, "commands/s": rate, "p50 ms": rate / 10}] for rate in (10.0, 30.0, 20.0)]
    (row,) = curve_of(rounds)
    assert row == {"in flight": 1, "commands/s": 20.0, "p50 ms": 2.0, "least commands/s": 10.0, "most commands/s": 30.0}


async def test_a_paced_command_s_latency_counts_from_when_it_was_due() -> None:
    class Busy:
        """Holds up the whole event loop, so that commands can't be sent when they are due."""

        async def submit(self, command: Any) -> Any:
            time.sleep(0.02)  # noqa: ASYNC251 - that is what it is about
            return type("Receipt", (), {"shard": 0, "position": 1})

    commands = (CreateCustomer(customer_id=f"c-{n}", name="Ada", email="a@example.com") for n in itertools.count())
    runtime: Any = Busy()
    load = await submit_paced(runtime, commands, rate=100, seconds=0.2)
    assert load.accepted > 10
    assert load.latencies.quantile_s(1.0) > 0.1  # the last was due at 0.2 s and had more than 10 times 0.02 s before it


@pytest.mark.parametrize("cached", [False, True])
async def test_eventsourcing_decides_the_same_commands_and_stores_an_event_for_each(
    tmp_path: Path, cached: bool
) -> None:
    commands = list(itertools.islice(workload(10, 6), 60))
    place = Place("sqlite", tmp_path, None)
    for name in ("each", "batched"):
        shop = EventsourcingShop(await peer_settings(place, name) | (CACHE if cached else {}))
        took_s = shop.saved_each(commands) if name == "each" else shop.saved_in_batches(commands, 25)
        assert took_s > 0
        assert shop.events() == len(commands)
        shop.close()


async def test_eventsource_py_decides_the_same_commands_and_stores_an_event_for_each(tmp_path: Path) -> None:
    commands = list(itertools.islice(workload(10, 6), 60))
    shop = await EventsourcePyShop.opened(Place("sqlite", tmp_path, None), "shop")
    assert await shop.saved_each(commands, 7) > 0
    assert await shop.events() == len(commands)
    await shop.close()
    await asyncio.sleep(0)


def test_results_are_json_with_figures_or_curves() -> None:
    for path in table.RESULTS.glob("*.json"):
        kept = json.loads(path.read_text())
        assert kept.get("measured_on", kept)["cpus"] > 0, path.name
