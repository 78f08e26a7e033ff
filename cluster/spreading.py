"""How many hosts there should be, and on which nodes: the coordinator's decisions about places.

Pure functions of what is told. Not here: which host gets which shards (`placement.py`), doing anything about it
(`stewarding.py`), asking Ray for its nodes (`nodes.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

SUSPECT_S = 20.0
"""How long a node is avoided where a process could not be reached, or could not begin."""
SUSPECT_MAX_S = 1800.0


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


def changes(
    places: Sequence[HostPlace], nodes: Collection[Node], wanted: int, suspects: Collection[str] = ()
) -> Changes:
    """Return what brings the places to the number wanted, off nodes that go, and evenly over the others.

    A place that has to leave is replaced first: it is emptied only once others serve (see `stewarding.py`). Evenly: as
    long as one usable node with room, none of `suspects`, has two places fewer than another, one place moves, and the
    next one only after it. Without any usable node (Ray can't be asked, or all nodes drain) places stay where they are.
    """
    usable = {node.node_id for node in nodes if node.usable}
    unusable = {node.node_id for node in nodes if not node.usable} if usable else set()
    staying = [place for place in places if not place.leaving]
    misplaced = [place for place in staying if place.node in unusable]
    good = [place for place in staying if place.node not in unusable]
    add = max(0, wanted - len(good))
    leave = [*misplaced, *_surplus(good, len(good) - wanted)]
    if not add and not leave and len(staying) == len(places) and all(place.serving for place in places):
        leave = _lopsided(places, nodes, suspects)
    return Changes(add, [place.title for place in leave])


def node_for(held: Iterable[str | None], nodes: Sequence[Node], suspects: Collection[str] = ()) -> str | None:
    """Return the node for one more host: the usable one with the fewest, `held` naming a node per host.

    Nodes without room come last, and before them `suspects`. None where
    Ray may choose itself: no node is usable, or none has room and any will do that Ray adds.
    """
    counts = Counter(held)
    usable = [node for node in nodes if node.usable]
    if not usable:
        return None
    best = min(usable, key=lambda node: (not node.room, node.node_id in suspects, counts[node.node_id]))
    return best.node_id if best.room or not all(node.fit for node in nodes) else None


class Suspects:
    """Nodes on which a process was lost without a word, or could not begin: a new one goes elsewhere for a while.

    For twice as long each time in a row, so that hosts and shards don't go to and fro between two nodes for ever.
    """

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()
        self._until_s: dict[str, float] = {}

    def failed(self, node: str | None, now_s: float) -> None:
        """A process on that node can't be reached, or could not begin."""
        if node is not None:
            self._failures[node] += 1
            self._until_s[node] = now_s + min(SUSPECT_MAX_S, SUSPECT_S * 2 ** (self._failures[node] - 1))

    def served(self, node: str | None) -> None:
        """A process on that node is at work."""
        self._failures.pop(str(node), None)
        self._until_s.pop(str(node), None)

    def at(self, now_s: float) -> set[str]:
        """Return the nodes to be avoided now."""
        return {node for node, until_s in self._until_s.items() if until_s > now_s}


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


def _lopsided(places: Sequence[HostPlace], nodes: Collection[Node], suspects: Collection[str]) -> list[HostPlace]:
    """One place of the fullest node if another node should have it; else none."""
    counts = {node.node_id: sum(place.node == node.node_id for place in places) for node in nodes if node.usable}
    inviting = [node.node_id for node in nodes if node.usable and node.room and node.node_id not in suspects]
    least = min((counts[node_id] for node_id in inviting), default=None)
    if least is None or max(counts.values()) - least < 2:
        return []
    fullest = max(counts, key=lambda node_id: counts[node_id])
    return [max((place for place in places if place.node == fullest), key=lambda place: _age(place.title))]


def _age(title: str) -> tuple[int, str]:
    """Orders `host-2` before `host-10`."""
    return len(title), title
