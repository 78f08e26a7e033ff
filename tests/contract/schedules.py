"""How long the protocol's state machines search, and from which seed.

A run is the same each time, so that it fails for what was changed. PROTOCOL_EXAMPLES asks for so many schedules instead
of some seconds of them, PROTOCOL_SEED for other ones: a number, as a failure prints it, or "random".
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Collection

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

_ASKED_SEED = os.environ.get("PROTOCOL_SEED", "20261123")
SEED = random.SystemRandom().randrange(2**32) if _ASKED_SEED == "random" else int(_ASKED_SEED)
EXAMPLES = int(os.environ.get("PROTOCOL_EXAMPLES", "0"))
SEARCH_S = 8.0
BATCH_SIZE = 10
"""Schedules from one seed."""
SCHEDULES_MAX = 1_000
"""After so many without what must happen, a search has failed."""
TIMEOUT_S = 400 + 2 * EXAMPLES
"""Making a failure small may take 300 s."""


def search(machine: Callable[[int], RuleBasedStateMachine], missing: Callable[[], Collection[str]] = tuple) -> None:
    """Try schedules; `machine` makes the state machine of each, and is given another number each time.

    `missing` says what must have happened, and has not yet: a search goes on until it has, and fails without.
    """
    numbers = itertools.count()
    began_s = time.monotonic()
    for batch in itertools.count():
        print(f"PROTOCOL_SEED={SEED + batch}")

        @seed(SEED + batch)
        class Schedule(RuleBasedStateMachine):
            def __new__(cls) -> RuleBasedStateMachine:  # type: ignore[misc]
                return machine(next(numbers))

        run_state_machine_as_test(Schedule, settings=PROFILE)
        done = (batch + 1) * BATCH_SIZE
        assert done < SCHEDULES_MAX or not missing(), f"no schedule ever led to {sorted(missing())}"
        if done >= EXAMPLES and (EXAMPLES or time.monotonic() - began_s > SEARCH_S) and not missing():
            return


PROFILE = settings(
    max_examples=BATCH_SIZE,
    stateful_step_count=30,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
