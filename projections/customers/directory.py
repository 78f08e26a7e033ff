"""Finding customers by e-mail address and by name, and the addresses that several of them share.

A customer's row is fed by one shard; an address may have customers in several, so these are counted by increments.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import Column, Index, Integer, MetaData, Select, Table, Text, select

from actors.customers import CustomerCreated, CustomerEmailChanged
from projections.changes import Changes
from projections.projection import Projection

ESCAPE = "\\"

directory = Table(
    "directory",
    MetaData(),
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("name_folded", Text, nullable=False),
    Column("email_folded", Text, nullable=False),
)
Index("directory_name", directory.c.name_folded)
Index("directory_email", directory.c.email_folded)
addresses = Table(
    "directory_addresses",
    MetaData(),
    Column("email_folded", Text, primary_key=True),
    Column("customers", Integer, nullable=False, default=0),
)


class CustomerDirectory(Projection):
    """Who is behind an e-mail address or a name, whatever its case. For `runtime.select`:

    `await runtime.select(CustomerDirectory, CustomerDirectory.by_email("ada@example.com"))`
    """

    tables: ClassVar = [directory, addresses]

    @staticmethod
    def by_email(email: str) -> Select[Any]:
        """Return the query for the customers with that address, by id."""
        return _shown().where(directory.c.email_folded == email.casefold())

    @staticmethod
    def by_name(part: str) -> Select[Any]:
        """Return the query for the customers with that part in their name, by id."""
        return _shown().where(directory.c.name_folded.contains(part.casefold(), autoescape=True, escape=ESCAPE))

    @staticmethod
    def shared_emails() -> Select[Any]:
        """Return the query for the addresses that several customers have, and how many have each."""
        shared = addresses.c.customers > 1
        return select(addresses.c.email_folded.label("email"), addresses.c.customers).where(shared).order_by("email")

    def on_created(self, event: CustomerCreated, changes: Changes) -> None:
        changes.insert(
            directory,
            id=event.customer_id,
            name=event.name,
            email=event.email,
            name_folded=event.name.casefold(),
            email_folded=event.email.casefold(),
        )
        changes.accumulate(addresses, event.email.casefold(), customers=1)

    def on_email_changed(self, event: CustomerEmailChanged, changes: Changes) -> None:
        email = event.new_email.casefold()
        changes.set(directory, event.customer_id, email=event.new_email, email_folded=email)
        changes.accumulate(addresses, event.old_email.casefold(), customers=-1)
        changes.accumulate(addresses, email, customers=1)


def _shown() -> Select[Any]:
    return select(directory.c.id, directory.c.name, directory.c.email).order_by(directory.c.id)
