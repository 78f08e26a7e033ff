"""`submit(..., consistency=...)`: it returns once the read models show it, or says that the command did succeed."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from sqlalchemy import Column, MetaData, Table, Text

from actors.customers import CreateCustomer, Customer, CustomerCreated, Order
from cluster.application import Application
from cluster.testing import InProcessRuntime
from projections import Projection
from projections.changes import Changes
from projections.errors import ConsistencyTimeout
from store import InvalidValue

seen = Table("seen_customers", MetaData(), Column("id", Text, primary_key=True))


class Seen(Projection):
    """Takes nothing as long as it is `broken`."""

    tables: ClassVar = [seen]
    broken: ClassVar = True

    def on_created(self, event: CustomerCreated, changes: Changes) -> None:
        if self.broken:
            raise ValueError("not yet")
        changes.insert(seen, id=event.customer_id)


class Unnamed(Projection):
    tables: ClassVar = [Table("unnamed", MetaData(), Column("id", Text, primary_key=True))]

    def on_created(self, event: CustomerCreated, changes: Changes) -> None:
        raise NotImplementedError


async def test_it_returns_once_the_read_model_shows_it_and_a_timeout_is_no_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ada = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")
    async with InProcessRuntime.open(app=Application([Customer, Order], [Seen]), shards=1) as runtime:
        with pytest.raises(InvalidValue, match="Unnamed"):
            await runtime.submit(ada, consistency=[Unnamed])
        with pytest.raises(ConsistencyTimeout, match="command did succeed"):
            await runtime.submit(ada, command_id="once", consistency=[Seen], timeout_s=0.3)
        assert (await runtime.load(Customer, "c-1")).version == 1
        assert await runtime.query(Seen, "c-1") is None
        monkeypatch.setattr(Seen, "broken", False)
        again = await runtime.submit(ada, command_id="once", consistency=[Seen], timeout_s=10)
        assert again.duplicate
        assert await runtime.query(Seen, "c-1") == {"id": "c-1"}


@pytest.mark.parametrize("wrong", [Seen, "Seen", None, 5, iter([Seen]), ["Seen"]], ids=lambda each: type(each).__name__)
async def test_what_is_no_list_of_projections_is_refused_before_the_command_is_sent(wrong: Any) -> None:
    """An iterator would be at its end before anybody has waited."""
    ada = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")
    async with InProcessRuntime.open(app=Application([Customer, Order], [Seen]), shards=1) as runtime:
        with pytest.raises(InvalidValue, match=r"^(consistency|projection) = "):
            await runtime.submit(ada, consistency=wrong)
        assert (await runtime.load(Customer, "c-1")).version == 0
