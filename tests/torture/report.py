"""What a run prints, and whether it is good. Not here: working it out (`figures.py`, `checker.py`)."""

from __future__ import annotations

from tests.torture.checker import counts, show
from tests.torture.figures import at, figures, pauses, vacuous
from tests.torture.run import SQLITE, Outcome
from tests.torture.schedule import Fault

ALWAYS_SEEN = ("duplicates", "unknown outcomes", "gap reads", "handovers")
BRIEFLY_SEEN = ("duplicates", "unknown outcomes", "killed zombies")
"""In some seconds what else there is may pass unseen."""
COUNTED = ("fenced appends", "shards lost to a new epoch", "zombies that came back", "killed zombies", *ALWAYS_SEEN)


def report(outcome: Outcome, kind: str, seconds: float, seed: int, brief: bool = False) -> bool:
    """Print it all; return whether nothing is wrong and the run proves something."""
    worked = figures(outcome.evidence)
    seen = outcome.seen.copy()
    seen["duplicates"] = worked.duplicates
    for fault in outcome.asked:
        missed = f" ({outcome.missed[fault]} found nobody)" if outcome.missed[fault] else ""
        print(f"{fault:36} {outcome.faults[fault]}{missed}")
    print(f"{'commands':36} {worked.commands}, acknowledged {worked.acknowledged}")
    for name in COUNTED:
        print(f"{name:36} {seen[name]}")
    mails = outcome.evidence.mails or []
    print(f"{'mails':36} {len(mails)}, repeated {len(mails) - len(set(mails))}")
    promoted = sum("LoyaltyProgramme" in row.command_id for row in outcome.evidence.rows)
    print(f"{'promotions by the process manager':36} {promoted}")
    print(f"{'answers that nobody knows':36} {worked.unknown_answers}, lost calls {worked.lost_calls}")
    print(f"{'p99':36} {worked.p99_s:.3f} s")
    gap = worked.longest
    print(f"{'longest time a shard was not served':36} {gap.seconds:.3f} s (shard {gap.shard}, at {gap.from_s:.1f})")
    for fault in (Fault.HOST_KILLED, Fault.HOST_STOPPED):
        paused = pauses(outcome.evidence, [fault])
        if paused.faults:
            text = f"p95 {at(paused.struck_s, 0.95):.3f} s of {paused.faults}, others at most {paused.others_s:.3f} s"
            print(f"{fault + ', serves again':36} {text}")
    wrong = counts(outcome.findings)
    for name, count in wrong.items():
        print(f"{name:36} {count}")
    show(outcome.findings)
    required = BRIEFLY_SEEN if brief else (*ALWAYS_SEEN, "killed zombies" if kind == SQLITE else "fenced appends")
    empty = vacuous(outcome.faults, outcome.asked, seconds, seen, required)
    for title, lines in (("left over", outcome.left_over), ("trouble", outcome.troubles), ("vacuous", empty)):
        for line in lines:
            print(f"  {title}: {line}")
    good = not (outcome.findings or outcome.left_over or outcome.troubles or empty)
    print(f"{'good' if good else 'NOT GOOD'}: seed {seed}, {seconds:g} s on {kind}")
    return good
