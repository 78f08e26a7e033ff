"""All verbs, as one command. Not here: what they do, each in a module of its own."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from cluster.cli import EXIT_INTERRUPTED, STOPPED
from cluster.cli.auditing import audit_projections
from cluster.cli.console import complain
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


class Stoppable(TyperGroup):
    """Ctrl-C is told as `run` tells it also where a verb imports Ray, or prints."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            complain(STOPPED)
            raise typer.Exit(EXIT_INTERRUPTED) from interrupt


verbs = typer.Typer(
    name="eventray",
    cls=Stoppable,
    help="An event-sourced actor runtime on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    callback=prepare,
)
for verb in (demo, submit, query, events, show, rebuild, replay, up, down, status, scale, rebalance):
    verbs.command()(verb)
audit.command(name="projections")(audit_projections)
verbs.add_typer(dead_letters, name="dead-letters")
verbs.add_typer(schema, name="schema")
verbs.add_typer(store, name="store")
verbs.add_typer(audit, name="audit")
