"""The command line. Results go to stdout, progress, errors and logs to stderr; exit codes are in `options.py`."""

from __future__ import annotations

import typer

from cluster.cli.auditing import audit_projections
from cluster.cli.dead_letters import dead_letters
from cluster.cli.demonstrating import demo
from cluster.cli.living import down, up
from cluster.cli.reading import events, query, show
from cluster.cli.rebuilding import rebuild
from cluster.cli.scaling import rebalance, scale
from cluster.cli.schema import schema
from cluster.cli.secrecy import hide_passwords
from cluster.cli.status import status
from cluster.cli.store import audit, replay, store
from cluster.cli.submitting import submit
from store.logs import configure_logs


def prepare() -> None:
    """What every verb begins with."""
    hide_passwords()
    configure_logs()


main = typer.Typer(
    name="eventray",
    help="An event-sourced actor runtime on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    callback=prepare,
)
for verb in (demo, submit, query, events, show, rebuild, replay, up, down, status, scale, rebalance):
    main.command()(verb)
audit.command(name="projections")(audit_projections)
main.add_typer(dead_letters, name="dead-letters")
main.add_typer(schema, name="schema")
main.add_typer(store, name="store")
main.add_typer(audit, name="audit")
