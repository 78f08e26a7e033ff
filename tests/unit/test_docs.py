"""The docs name tests and files that exist."""

import ast
import re
from pathlib import Path

import pytest

from cluster.settings import Settings

ROOT = Path(__file__).parents[2]
PREFIXES = ("host_", "client_", "payload_", "projection_events_", "projection_batch_", "process_manager_")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(("page", "rows_min"), [("docs/guarantees.md", 30), ("docs/bounds.md", 10)])
def test_every_test_that_a_page_names_exists_and_no_row_is_empty(page: str, rows_min: int) -> None:
    text = (ROOT / page).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| --- |" not in line]
    assert len(rows) > rows_min
    for row in rows:
        named = re.findall(r"`(tests/\S+\.py)::(\w+)`", row)
        assert named or row.endswith("| shown by |"), row
        for path, name in named:
            tree = ast.parse((ROOT / path).read_text())
            functions = {
                node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert name in functions, f"{path}::{name}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_bound_of_the_settings_has_a_row_and_every_row_names_settings_that_exist() -> None:
    named = set(
        re.findall(r"`((?:host|client|payload|projection|process_manager)_\w+)`", (ROOT / "docs/bounds.md").read_text())
    )
    assert named <= Settings.model_fields.keys()
    bounds = {name for name in Settings.model_fields if name.startswith(PREFIXES)}
    assert bounds - named == {"host_cpus"}
