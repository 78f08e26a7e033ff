"""The command line. Results go to stdout, progress, errors and logs to stderr; exit codes are in `options.py`.

Here: what `eventray` calls, before anything is imported that takes long. The verbs are in `verbs.py`.
"""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130
STOPPED = "eventray: stopped"


def main() -> None:
    """Run the verb that the arguments of this process name. Ctrl-C is one line and exit code 130 whenever it comes.

    The first half second goes to importing, and then `run` (`options.py`) isn't there yet to hear of it.
    """
    try:
        from cluster.cli.verbs import verbs

        verbs(prog_name="eventray")
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
