"""`python -m cluster.monitoring DIRECTORY`: write the scrape config, the alert rules and the dashboards there.

Without a directory the dashboards beside this file are made anew from `panels.py`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cluster.monitoring.dashboards import rendered
from cluster.monitoring.panels import DASHBOARDS

HERE = Path(__file__).parent
FILES = ("prometheus.yml", "alerts.yml")


def write(directory: Path) -> list[Path]:
    """Write all files into a directory, which is made if it isn't there; return them. Raises OSError."""
    dashboards = directory / "dashboards"
    dashboards.mkdir(parents=True, exist_ok=True)
    written = [Path(shutil.copyfile(HERE / name, directory / name)) for name in FILES if directory != HERE]
    for name, dashboard in DASHBOARDS.items():
        written.append(dashboards / f"{name}.json")
        written[-1].write_text(rendered(dashboard))
    return written


def main() -> None:
    """Write, and say what was written."""
    if len(sys.argv) > 2 or (len(sys.argv) == 2 and sys.argv[1].startswith("-")):
        sys.exit((__doc__ or "").split("\n")[0])
    try:
        written = write(Path(sys.argv[1]) if len(sys.argv) == 2 else HERE)
    except OSError as error:
        sys.exit(f"cluster.monitoring: {error}: give a directory that can be written")
    print(*written, sep="\n")


if __name__ == "__main__":
    main()
