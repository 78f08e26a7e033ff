"""Grafana's dashboards as code: a few words for each panel become the JSON that Grafana imports.

`python -m cluster.monitoring` writes them. Not here: which panels there are (`panels.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Literal, NamedTuple

COLUMNS = 24
"""Of Grafana's grid."""
SOURCE = {"type": "prometheus", "uid": "${source}"}


class Query(NamedTuple):
    """One line, or one group of lines, of a panel."""

    expr: str
    """PromQL. `$instance` stands for the exporters that are chosen, `$__rate_interval` for Grafana's."""
    legend: str = ""


class Panel(NamedTuple):
    """One picture."""

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    """Grafana's name of it: short, s, bytes, ops, percentunit, ..."""
    kind: Literal["timeseries", "stat"] = "timeseries"
    about: str = ""
    """What one should know to read it."""
    width: int = 8


class Dashboard(NamedTuple):
    """One page."""

    uid: str
    title: str
    panels: Sequence[Panel]


def rendered(dashboard: Dashboard) -> str:
    """Return the JSON of a dashboard, as it is kept in a file."""
    content = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["eventray"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["eventray"], "title": "Eventray", "asDropdown": True}],
        "templating": {"list": [_source(), _instance()]},
        "panels": list(_placed(dashboard.panels)),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    """Yield panels in rows, each from left to right."""
    x = y = height = 0
    for number, panel in zip(count(1), panels, strict=False):
        if x + panel.width > COLUMNS:
            x, y, height = 0, y + height, 0
        tall = 4 if panel.kind == "stat" else 8
        yield _panel(number, panel) | {"gridPos": {"x": x, "y": y, "w": panel.width, "h": tall}}
        x, height = x + panel.width, max(height, tall)


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + place), "expr": query.expr, "legendFormat": query.legend, "datasource": SOURCE}
        for place, query in enumerate(panel.queries)
    ]
    content: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
    }
    if panel.kind == "stat":
        content["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    else:
        content["options"] = {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list"}}
    return content


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _instance() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Runtime",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(eventray_runtime_up, instance)", "refId": "instance"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }
