"""What audits came to is kept, the last of each name."""

from __future__ import annotations

from store import EventStore
from store.records import AuditResult
from tests.contract.conftest import Opener


async def test_the_last_result_of_each_audit_is_kept(store: EventStore, open_another: Opener) -> None:
    assert await store.audits() == []
    await store.keep_audit(AuditResult("store", 1_000, 5, 2))
    await store.keep_audit(AuditResult("names", 3_000, 9, 0))
    other = await open_another()
    await other.keep_audit(AuditResult("store", 2_000, 7, 0))
    assert await store.audits() == [AuditResult("names", 3_000, 9, 0), AuditResult("store", 2_000, 7, 0)]
