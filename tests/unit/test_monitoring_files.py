"""The files for Prometheus and Grafana, and the pages about them, say what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.metrics.definitions import METRICS
from cluster.monitoring.__main__ import FILES, write
from cluster.monitoring.dashboards import rendered
from cluster.monitoring.panels import DASHBOARDS
from cluster.settings import Settings

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "cluster" / "monitoring"
PAGE = ROOT / "docs" / "monitoring.md"
MARK = "<!-- made by tests/unit/test_monitoring_files.py -->\n"


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def metric_table() -> str:
    lines = ["| metric | labels | unit | what it says |", "| --- | --- | --- | --- |"]
    for metric in METRICS.values():
        name = metric.name if metric.kind == "histogram" else metric.sample_name
        kind = "" if metric.kind == "gauge" else f" ({metric.kind})"
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{name}`{kind} | {labels} | {metric.unit} | {metric.help} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    before, _, table = PAGE.read_text().partition(MARK)
    assert table.strip() == metric_table().strip(), f"put this behind the mark:\n{metric_table()}"
    assert set(re.findall(r"EVENTRAY_(METRICS_\w+)", before)) == {
        name.upper() for name in Settings.model_fields if name.startswith("metrics_")
    }


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_dashboards_are_those_of_the_code(name: str) -> None:
    kept = (MONITORING / "dashboards" / f"{name}.json").read_text()
    assert kept == rendered(DASHBOARDS[name]), "run `python -m cluster.monitoring`"


def test_all_that_queries_and_alerts_ask_for_is_measured() -> None:
    texts = [query.expr for each in DASHBOARDS.values() for panel in each.panels for query in panel.queries]
    texts += [rule["expr"] for rule in rules()]
    asked = {name for text in texts for name in re.findall(r"eventray_\w+", text)}
    measured = {metric.sample_name for metric in METRICS.values()}
    measured |= {
        f"{each.name}_{what}" for each in METRICS.values() if each.kind == "histogram" for what in ("sum", "count")
    }
    assert asked <= measured
    shown = {name.removesuffix("_sum").removesuffix("_count") for name in asked}
    missing = {metric.name for metric in METRICS.values() if not {metric.name, metric.sample_name} & shown}
    assert missing == set()


def test_each_alert_leads_to_its_part_of_the_page() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    headings = {
        line.removeprefix("### ").lower().replace(" ", "-") for line in page.splitlines() if line.startswith("### ")
    }
    for rule in rules():
        words = re.findall(r"[A-Z][a-z]+", rule["alert"])
        anchor = "-".join(words).lower()
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{anchor}"
        assert anchor in headings
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_every_alert_is_tested_before_and_after() -> None:
    cases = yaml.safe_load((ROOT / "tests" / "fixtures" / "alerts_test.yml").read_text())["tests"]
    tested = {case["name"]: [bool(each["exp_alerts"]) for each in case["alert_rule_test"]] for case in cases}
    assert tested == {rule["alert"]: [False, True] for rule in rules()}


def test_all_files_can_be_had_from_an_installation(tmp_path: Path) -> None:
    written = write(tmp_path / "monitoring")
    names = {str(path.relative_to(tmp_path / "monitoring")) for path in written}
    assert names == {*FILES, *(f"dashboards/{name}.json" for name in DASHBOARDS)}
    assert (tmp_path / "monitoring" / "alerts.yml").read_text() == (MONITORING / "alerts.yml").read_text()
