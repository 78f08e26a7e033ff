"""How many hosts there should be, and on which nodes: the coordinator's decisions about places.

Pure functions of what is told. Not here: which host gets which shards (`placement.py`), doing anything about it
(`stewarding.py`), asking Ray for its nodes (`nodes.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple


class Node(NamedTuple):
    """A node of the cluster that is alive."""

    node_id: str
    address: str
    draining: bool = False
    """Whether it is to go (a preemption notice): Ray only marks it, and leaves emptying it to us."""
    fit: bool = True
    """Whether hosts may be there at all: those of a SQLite store belong on the file's machine."""
    room: bool = True
    """Whether it has free CPUs for one more host."""

    @property
    def usable(self) -> bool:
        """Whether a new host may go there."""
        return self.fit and not self.draining


class HostPlace(NamedTuple):
    """A place for a host, filled by one process after the other."""

    title: str
    node: str | None
    """Where its process is; None: not known yet."""
    serving: bool
    leaving: bool = False
    """Whether it is being emptied, and then given up."""
    shards: int = 0
    """So many it serves."""


class Changes(NamedTuple):
    """What is to be done about places."""

    add: int
    """So many new ones."""
    leave: list[str]
    """These, by title, are to be emptied and given up."""


def changes(places: Sequence[HostPlace], nodes: Collection[Node], wanted: int) -> Changes:
    """Return what brings the places to the number wanted, off nodes that go, and evenly over the others.

    A place that has to leave is replaced first: it is emptied only once others serve (see `stewarding.py`). Evenly: as
    long as one usable node with room has two places fewer than another, one place moves, and the next one only after
    it. Without any usable node (Ray can't be asked, or all nodes drain) places stay where they are.
    """
    usable = {node.node_id for node in nodes if node.usable}
    unusable = {node.node_id for node in nodes if not node.usable} if usable else set()
    staying = [place for place in places if not place.leaving]
    misplaced = [place for place in staying if place.node in unusable]
    good = [place for place in staying if place.node not in unusable]
    add = max(0, wanted - len(good))
    leave = [*misplaced, *_surplus(good, len(good) - wanted)]
    if not add and not leave and len(staying) == len(places) and all(place.serving for place in places):
        leave = _lopsided(places, nodes)
    return Changes(add, [place.title for place in leave])


def node_for(held: Iterable[str | None], nodes: Sequence[Node], suspects: Collection[str] = ()) -> str | None:
    """Return the node for one more host: the usable one with the fewest, `held` naming a node per host.

    Nodes without room and `suspects`, which have just lost a process that could not be reached, come last. None where
    Ray may choose itself: no node is usable, or none has room and any will do that Ray adds.
    """
    counts = Counter(held)
    usable = [node for node in nodes if node.usable]
    if not usable:
        return None
    best = min(usable, key=lambda node: (not node.room, node.node_id in suspects, counts[node.node_id]))
    return best.node_id if best.room or not all(node.fit for node in nodes) else None


def _surplus(places: Sequence[HostPlace], count: int) -> list[HostPlace]:
    """The places to give up: first those that don't serve, then from the fullest node those with the least to move."""
    left = list(places)
    chosen = []
    for _ in range(max(0, count)):
        counts = Counter(place.node for place in left)
        victim = max(left, key=lambda place: (not place.serving, counts[place.node], -place.shards, _age(place.title)))
        left.remove(victim)
        chosen.append(victim)
    return chosen


def _lopsided(places: Sequence[HostPlace], nodes: Collection[Node]) -> list[HostPlace]:
    """One place of the fullest node if another node should have it; else none."""
    counts = {node.node_id: sum(place.node == node.node_id for place in places) for node in nodes if node.usable}
    least = min((counts[node.node_id] for node in nodes if node.usable and node.room), default=None)
    if least is None or max(counts.values()) - least < 2:
        return []
    fullest = max(counts, key=lambda node_id: counts[node_id])
    return [max((place for place in places if place.node == fullest), key=lambda place: _age(place.title))]


def _age(title: str) -> tuple[int, str]:
    """Orders `host-2` before `host-10`."""
    return len(title), title
