"""The demo's input: what is read, which commands it makes, and what must come out."""

from collections import Counter, defaultdict
from decimal import Decimal

from actors.customers import CreateCustomer, CreateOrder
from cluster.demo.purchases import VIP_SPENT_MIN, expected, read_purchases, steps


def test_the_whole_input_is_read_in_date_order() -> None:
    purchases = read_purchases()
    assert len(purchases) == 6_919
    assert sum((purchase.amount for purchase in purchases), Decimal(0)) == Decimal("244091.94")
    days = [purchase.day for purchase in purchases]
    assert days == sorted(days)
    assert len({purchase.order_id for purchase in purchases}) == 6_919


def test_a_slice_holds_all_purchases_of_the_first_customers() -> None:
    purchases = read_purchases(customers_max=2)
    assert Counter(purchase.customer_id for purchase in purchases) == {"00004": 4, "00021": 2}
    assert expected(purchases)["00004"].total_spent == Decimal("100.50")


def test_a_customer_is_created_before_the_first_order_and_nobody_is_promoted() -> None:
    created, command_ids = set(), set()
    spent: defaultdict[str, Decimal] = defaultdict(Decimal)
    for step in steps(read_purchases()):
        command_ids.add(step.command_id)
        match step.command:
            case CreateCustomer(customer_id=customer_id):
                created.add(customer_id)
            case CreateOrder(customer_id=customer_id, total_amount=amount):
                assert customer_id in created
                spent[customer_id] += amount
            case _:
                raise AssertionError(step)
    facts = expected(read_purchases())
    assert len(created) == len(facts) == 2_357
    vips = {customer_id for customer_id, customer in facts.items() if customer.type == "Vip"}
    assert vips == {customer_id for customer_id, amount in spent.items() if amount >= VIP_SPENT_MIN}
    assert (len(command_ids), len(vips)) == (2_357 + 6_919, 76)
