"""The checker: evidence in, verdict out. It shares no code with the runtime, so it can't share its mistakes.

By itself: `python -m tests.torture.checker DIRECTORY` judges again what a run of the torture has left there.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections import Counter
from pathlib import Path

from tests.torture.checks import CHECKS, Finding, Kind
from tests.torture.evidence import (
    Evidence,
    read_drivers,
    read_faults,
    read_mails,
    read_postgres,
    read_sqlite,
)
from tests.torture.history import History

SHOWN_MAX = 40
KEPT = "evidence.pickle"


def judge(evidence: Evidence) -> list[Finding]:
    """Return all that is wrong."""
    history = History(evidence)
    return [finding for check in CHECKS for finding in check(evidence, history)]


def counts(findings: list[Finding]) -> dict[str, int]:
    """Return how many of each kind."""
    found = Counter(finding.kind for finding in findings)
    return {kind.value: found[kind] for kind in Kind}


def collect(directory: Path) -> Evidence:
    """Read what a run has left in its directory: `run.json` names the store."""
    store = str(json.loads((directory / "run.json").read_text())["store"])
    evidence = read_postgres(store) if store.startswith("postgresql") else read_sqlite(directory / store)
    read_drivers(evidence, directory.glob("driver-*.jsonl"))
    if (faults := directory / "faults.jsonl").exists():
        read_faults(evidence, faults)
    if (mails := directory / "mails.jsonl").exists():
        read_mails(evidence, mails)
    return evidence


def keep(evidence: Evidence, directory: Path) -> None:
    """Keep it for whoever judges again: a PostgreSQL server does not outlive its run."""
    (directory / KEPT).write_bytes(pickle.dumps(evidence))


def kept(directory: Path) -> Evidence:
    """What a run has kept of itself; of one that was broken off, what can be read."""
    file = directory / KEPT
    return pickle.loads(file.read_bytes()) if file.exists() else collect(directory)


def show(findings: list[Finding]) -> None:
    """Print what is wrong, the first of much."""
    for finding in findings[:SHOWN_MAX]:
        print(f"  {finding.kind}: {finding.text}")
    if len(findings) > SHOWN_MAX:
        print(f"  and {len(findings) - SHOWN_MAX} more")


def main() -> int:
    """Judge a directory; 1 if anything is wrong."""
    findings = judge(kept(Path(sys.argv[1])))
    show(findings)
    print(json.dumps(counts(findings)))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
