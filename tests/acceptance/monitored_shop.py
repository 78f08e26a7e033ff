"""The shop with a projection that can be made to hang and a handler that fails at some customers. Not a test itself.

A test names it as its application; Ray's workers import it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from sqlalchemy import Column, MetaData, Table, Text

from actors.customers import Customer, CustomerCreated, Order
from cluster import Application
from projections import Changes, Handler, Policy, Projection
from projections.customers import CustomerProjection

WAIT = "wait while there is "
REFUSE = "refuse me"

names = Table("names", MetaData(), Column("id", Text, primary_key=True), Column("name", Text, nullable=False))


class Names(Projection, name="names"):
    """Stands still, and with it the process's event loop, while a file is there that a customer's name mentions."""

    tables: ClassVar = [names]

    def on_created(self, event: CustomerCreated, changes: Changes) -> None:
        if event.name.startswith(WAIT):
            flag = Path(event.name.removeprefix(WAIT))
            while flag.exists():
                time.sleep(0.05)
        changes.insert(names, id=event.customer_id, name=event.name)


class Greeting(Handler, name="greeting", start="beginning", policy=Policy(attempts_max=1)):
    """Greets nobody, and parks who does not want it."""

    def on_created(self, event: CustomerCreated) -> None:
        if event.name == REFUSE:
            raise ValueError("no greeting for this one")


app = Application([Customer, Order], [CustomerProjection, Names], [Greeting])
