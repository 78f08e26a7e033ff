"""Imports point one way, and Ray stays at the edge."""

import ast
import subprocess
import sys
from pathlib import Path

LAYERS = ["store", "actors", "projections", "cluster"]
ROOT = Path(__file__).parents[2]
RAY_ALLOWED = {"actors/host.py", "projections/host.py"}


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def test_imports_point_from_cluster_to_store_and_ray_is_imported_at_the_edge_only() -> None:
    wrong = []
    for rank, layer in enumerate(LAYERS):
        for path in (ROOT / layer).rglob("*.py"):
            name = str(path.relative_to(ROOT))
            ray_allowed = layer == "cluster" or name in RAY_ALLOWED
            forbidden = {*LAYERS[rank + 1 :], "tests", "benchmarks", *(() if ray_allowed else ("ray",))}
            wrong += [f"{name} imports {module}" for module in imported(path) & forbidden]
    assert wrong == []


def test_a_coordinator_loads_no_http_server() -> None:
    """It only makes the exporter, and a tenth of a second of each runtime's start would go into that."""
    words = [sys.executable, "-c", "import sys, cluster.coordinator; sys.exit('aiohttp' in sys.modules)"]
    assert subprocess.run(words, cwd=ROOT, timeout=50, check=False).returncode == 0
