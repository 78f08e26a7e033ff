"""The promotion notice, sent to HTTP servers on loopback that take it, refuse it, are slow, and hang up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from actors.customers import CreateCustomer, CustomerPromoted, CustomerType, PromoteToVip
from cluster.application import default_application
from cluster.testing import InProcessRuntime
from projections.customers import PromotionNotice
from projections.customers.promotion import PromotionWebhookSettings
from projections.errors import NotSent, RetryLater, Undeliverable
from projections.handler import Policy
from projections.webhook import Webhook, signature

SECRET = "a secret of the shop's"
TOKEN = "token-in-the-url"


@dataclass
class Received:
    """One call."""

    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Receiver:
    """An HTTP server: what it was sent, and what it does at each call; nothing more: it says 200."""

    url: str = ""
    calls: list[Received] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Receiver()

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.calls.append(Received(dict(self.headers), body, time.monotonic()))
            answer = found.answers.pop(0) if found.answers else (200, {}, b"")
            if answer == "stall":
                found.released.wait(20)
            if answer == "trickle":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                with contextlib.suppress(OSError):  # the other side has gone
                    while not found.released.wait(0.1):
                        self.wfile.write(b"x")
            if answer in ("hang up", "stall", "trickle"):
                self.close_connection = True
                return
            status, headers, content = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/promotions?key={TOKEN}"
    yield found
    found.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def webhook(receiver: Receiver, clock: Any = time.time) -> Webhook:
    return Webhook(SecretStr(receiver.url), SecretStr(SECRET), timeout_s=0.5, clock=clock)


def promoted() -> CustomerPromoted:
    return CustomerPromoted(
        customer_id="c-1", from_type=CustomerType.REGULAR, to_type=CustomerType.VIP, reason="loyal ✓"
    )


async def test_a_notice_is_signed_and_a_repetition_has_the_same_key(receiver: Receiver) -> None:
    notice = PromotionNotice(PromotionWebhookSettings(url=SecretStr(receiver.url), secret=SecretStr(SECRET)))
    event = promoted()
    await notice.on_promoted(event)
    await notice.on_promoted(event)
    for call in receiver.calls:
        timestamp = int(call.headers["Eventray-Timestamp"])
        assert abs(timestamp - time.time()) < 5
        assert call.headers["Eventray-Signature"] == signature(SECRET, timestamp, call.body)
        assert call.headers["Idempotency-Key"] == f"{event.id}:PromotionNotice"
    said = json.loads(receiver.calls[0].body)
    assert said == {
        "id": str(event.id),
        "type": "CustomerPromoted",
        "occurred_at": event.occurred_at.isoformat(),
        "data": {"customer_id": "c-1", "from_type": "Regular", "to_type": "Vip", "reason": "loyal ✓"},
    }


def test_the_signature_is_a_format_that_covers_time_and_body() -> None:
    known = "v1=942c6f7e34ef5c448cbbbf79276da392036d59f0bd9fb74ba14eb8e83e2bb6cd"
    assert signature("secret", 1_700_000_000, b'{"a": 1}') == known
    assert signature("secret", 1_700_000_001, b'{"a": 1}') != known
    assert signature("secret", 1_700_000_000, b'{"a": 2}') != known
    assert signature("Secret", 1_700_000_000, b'{"a": 1}') != known


@pytest.mark.parametrize("status", [400, 410, 422])
async def test_what_is_said_of_this_call_is_for_good(receiver: Receiver, status: int) -> None:
    receiver.answers = [(status, {}, b"what is a \x00 promotion?" + b"x" * 10_000)]
    with pytest.raises(
        Undeliverable, match=rf"the receiver answered {status}: 'what is a \\x00 promotion\?x+'"
    ) as found:
        await webhook(receiver).post(b"{}", "key")
    assert len(str(found.value)) < 500


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 409, 429, 500, 503])
async def test_all_else_is_tried_again(receiver: Receiver, status: int) -> None:
    receiver.answers = [(status, {"Location": receiver.url, "Retry-After": "soon"}, b"")]
    with pytest.raises(NotSent, match=f"the receiver answered {status}$"):
        await webhook(receiver).post(b"{}", "key")
    assert len(receiver.calls) == 1


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("status", "value", "after_s"),
    [
        (429, "7", 7.0),
        (503, "120", 120.0),
        (429, formatdate(NOW + 60, usegmt=True), 60.0),
        (429, "999999", 3600.0),
        (429, "9" * 400, 3600.0),
    ],
)
async def test_a_receiver_says_when_to_come_again(receiver: Receiver, status: int, value: str, after_s: float) -> None:
    receiver.answers = [(status, {"Retry-After": value}, b"slow down")]
    with pytest.raises(RetryLater) as found:
        await webhook(receiver, clock=lambda: NOW).post(b"{}", "key")
    assert found.value.after_s == after_s


@pytest.mark.parametrize("value", ["0", "-5", formatdate(NOW - 60), "", "Mon, 99 Foo"])
async def test_a_time_that_is_none_or_past_leaves_it_to_the_policy(receiver: Receiver, value: str) -> None:
    receiver.answers = [(429, {"Retry-After": value}, b"")]
    with pytest.raises(NotSent):
        await webhook(receiver, clock=lambda: NOW).post(b"{}", "key")


@pytest.mark.parametrize("answer", ["stall", "trickle", "hang up"])
async def test_one_that_stalls_or_hangs_up_gives_no_answer_in_time(receiver: Receiver, answer: Any) -> None:
    receiver.answers = [answer]
    with pytest.raises(NotSent) as found:
        await asyncio.wait_for(webhook(receiver).post(b"{}", "key"), 5)
    assert TOKEN not in str(found.value)


async def test_where_nobody_listens_nothing_is_sent(receiver: Receiver) -> None:
    nobody = Webhook(SecretStr("http://127.0.0.1:1/x"), SecretStr(SECRET), timeout_s=0.5)
    with pytest.raises(NotSent, match="ConnectError"):
        await nobody.post(b"{}", "key")


async def test_the_environment_turns_it_on_in_the_shop_and_each_promotion_is_told(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(PromotionNotice, "policy", Policy(attempts_max=6, wait_first_s=0.01, wait_max_s=0.02))
    monkeypatch.setenv("EVENTRAY_PROMOTION_WEBHOOK_URL", receiver.url)
    monkeypatch.setenv("EVENTRAY_PROMOTION_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("EVENTRAY_PROMOTION_WEBHOOK_TIMEOUT_S", "0.3")
    receiver.answers = [(500, {}, b""), (429, {"Retry-After": "1"}, b""), "hang up", "stall"]
    async with InProcessRuntime.open(app=default_application(), shards=1) as runtime:
        await runtime.submit(CreateCustomer(customer_id="c-1", name="Ada", email="ada@a.example"))
        await runtime.submit(PromoteToVip(customer_id="c-1", reason="loyal"))
        async with asyncio.timeout(20):
            while len(receiver.calls) < 5:
                await asyncio.sleep(0.02)
    assert len({call.headers["Idempotency-Key"] for call in receiver.calls}) == 1
    assert receiver.calls[2].at - receiver.calls[1].at >= 1
    assert TOKEN not in caplog.text
    assert SECRET not in caplog.text
