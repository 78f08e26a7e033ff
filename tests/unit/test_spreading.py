"""How many hosts there should be, and on which nodes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cluster.spreading import SUSPECT_S, Changes, HostPlace, Node, Suspects, changes, node_for

A, B, C = (Node(node_id, f"10.0.0.{number}") for number, node_id in enumerate("abc", 1))


def places(*nodes: str | None, serving: bool = True) -> list[HostPlace]:
    return [HostPlace(f"host-{number}", node, serving) for number, node in enumerate(nodes, 1)]


class TestChanges:
    def test_as_wanted_nothing_changes(self) -> None:
        assert changes(places("a", "b"), [A, B], 2) == Changes(0, [])

    def test_what_lacks_is_added(self) -> None:
        assert changes(places("a"), [A, B], 3) == Changes(2, [])

    def test_of_too_many_the_fullest_node_gives_up_its_last(self) -> None:
        assert changes(places("a", "b", "b"), [A, B], 2) == Changes(0, ["host-3"])

    def test_of_too_many_those_that_do_not_serve_go_first(self) -> None:
        starting = HostPlace("host-1", None, serving=False)
        assert changes([starting, *places("a", "a")[1:]], [A], 1) == Changes(0, ["host-1"])

    def test_of_too_many_the_one_without_shards_goes(self) -> None:
        idle = HostPlace("host-1", "a", serving=True)
        busy = HostPlace("host-2", "a", serving=True, shards=8)
        assert changes([idle, busy], [A], 1) == Changes(0, ["host-1"])

    def test_a_node_that_drains_is_emptied_and_its_host_replaced(self) -> None:
        assert changes(places("a", "b"), [A, B._replace(draining=True)], 2) == Changes(1, ["host-2"])

    def test_a_host_where_none_may_be_is_moved(self) -> None:
        assert changes(places("a", "b"), [A, B._replace(fit=False)], 2) == Changes(1, ["host-2"])

    def test_where_all_nodes_drain_hosts_stay(self) -> None:
        assert changes(places("a"), [A._replace(draining=True)], 1) == Changes(0, [])

    def test_without_knowledge_of_nodes_hosts_stay(self) -> None:
        assert changes(places("a", "b"), [], 2) == Changes(0, [])

    def test_a_node_that_joins_gets_a_host_of_a_fuller_one(self) -> None:
        assert changes(places("a", "a", "a"), [A, B, C], 3) == Changes(0, ["host-3"])

    def test_one_at_a_time(self) -> None:
        leaving = [*places("a", "a"), HostPlace("host-3", "a", serving=True, leaving=True)]
        assert changes([*leaving, HostPlace("host-4", "b", serving=True)], [A, B, C], 3) == Changes(0, [])

    def test_none_moves_while_one_begins(self) -> None:
        assert changes([*places("a", "a"), HostPlace("host-3", "c", serving=False)], [A, B, C], 3) == Changes(0, [])

    def test_a_difference_of_one_moves_nothing(self) -> None:
        assert changes(places("a", "a", "b"), [A, B], 3) == Changes(0, [])

    def test_a_node_without_room_gets_none(self) -> None:
        assert changes(places("a", "a"), [A, B._replace(room=False)], 2) == Changes(0, [])

    def test_a_suspect_gets_none(self) -> None:
        assert changes(places("a", "a"), [A, B], 2, suspects={"b"}) == Changes(0, [])

    @given(st.lists(st.sampled_from("abc"), max_size=8), st.integers(1, 8), st.sets(st.sampled_from("abc"), max_size=2))
    def test_steps_lead_to_an_even_spread_and_end(self, held: list[str], wanted: int, drained: set[str]) -> None:
        nodes = [node._replace(draining=node.node_id in drained) for node in (A, B, C)]
        now = places(*held)
        numbers = iter(range(100, 200))
        for _ in range(40):
            change = changes(now, nodes, wanted)
            if change == Changes(0, []):
                break
            now = [place for place in now if place.title not in change.leave]
            for _ in range(change.add):
                node = node_for([place.node for place in now], nodes)
                now.append(HostPlace(f"host-{next(numbers)}", node, serving=True))
        else:
            raise AssertionError(f"it does not end: {now}")
        counts = Counter({node.node_id: 0 for node in nodes if node.usable})
        counts.update(str(place.node) for place in now)
        assert len(now) == wanted
        assert not drained & {str(place.node) for place in now}
        assert max(counts.values()) - min(counts.values()) <= 1


class TestNodeFor:
    def test_the_one_with_the_fewest(self) -> None:
        assert node_for(["a", "a", "b", None], [A, B]) == "b"

    def test_one_that_drains_or_is_unfit_gets_none(self) -> None:
        assert node_for(["c"], [A._replace(draining=True), B._replace(fit=False), C]) == "c"

    def test_a_suspect_only_if_there_is_no_other(self) -> None:
        assert node_for(["a"], [A, B], suspects={"b"}) == "a"
        assert node_for([], [B], suspects={"b"}) == "b"

    def test_one_with_room_before_one_without_and_before_one_that_is_trusted(self) -> None:
        assert node_for(["b", "b"], [A._replace(room=False), B]) == "b"
        assert node_for([], [A._replace(room=False), B], suspects={"b"}) == "b"

    def test_where_none_has_room_ray_may_wait_for_a_new_node(self) -> None:
        full = [A._replace(room=False), B._replace(room=False)]
        assert node_for([], full) is None
        assert node_for([], [full[0], B._replace(fit=False)]) == "a", "but not where only one machine will do"

    def test_without_a_usable_node_ray_chooses(self) -> None:
        assert node_for([], []) is None
        assert node_for([], [A._replace(draining=True)]) is None


class TestSuspects:
    def test_a_node_is_avoided_for_a_while(self) -> None:
        suspects = Suspects()
        suspects.failed("a", 100.0)
        assert suspects.at(100.0 + SUSPECT_S - 0.1) == {"a"}
        assert suspects.at(100.0 + SUSPECT_S) == set()

    def test_for_longer_each_time_until_one_serves_there(self) -> None:
        suspects = Suspects()
        suspects.failed("a", 100.0)
        suspects.failed("a", 200.0)
        assert suspects.at(200.0 + 1.5 * SUSPECT_S) == {"a"}
        suspects.served("a")
        assert suspects.at(200.0) == set()
        suspects.failed("a", 300.0)
        assert suspects.at(300.0 + 1.5 * SUSPECT_S) == set()
