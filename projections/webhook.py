"""Calls of other systems by HTTP, signed: what is sent, and what each answer means for the handler that sends it.

A receiver knows by the signature who called and when, and by the key whether it has had this one before. One connection
for each call; redirects are not followed. Not here: what is said (the handlers), and when it is tried again (`Policy`).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from projections.errors import NotSent, RetryLater, Undeliverable

REFUSED_FOR_GOOD = frozenset({400, 410, 413, 414, 415, 422})
"""What is said of this very call, and stays so. Others may be put right at either end: a wrong address, a key."""
RETRY_AFTER_MAX_S = 3600.0
"""However long a receiver says that it wants to be left alone."""
ANSWER_SHOWN_MAX_BYTES = 200
SECRET_SIZE_MIN = 16


def _url(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError("a URL such as https://receiver.example/promotions was expected")
    return value


Url = Annotated[SecretStr, AfterValidator(_url)]
"""Hidden like a secret, since it may hold one."""
Secret = Annotated[SecretStr, Field(min_length=SECRET_SIZE_MIN)]


class Webhook:
    """One receiver, and the secret that it shares with us."""

    def __init__(
        self, url: SecretStr, secret: SecretStr, timeout_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._url, self._secret, self._timeout_s, self._clock = url, secret, timeout_s, clock

    async def post(self, body: bytes, key: str) -> None:
        """Send JSON; returns once the receiver has said 2xx.

        Raises Undeliverable where it refuses this call for good, RetryLater where it says when to come again (429 and
        503 with Retry-After), NotSent for all else: then nobody knows whether it has acted.
        """
        httpx = _httpx()
        headers = self._headers(body, key)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                httpx.AsyncClient(verify=_tls(), timeout=self._timeout_s) as client,
                client.stream("POST", self._url.get_secret_value(), content=body, headers=headers) as response,
            ):
                if response.is_success:
                    return
                start = b""
                async for chunk in response.aiter_bytes(ANSWER_SHOWN_MAX_BYTES):
                    start = chunk
                    break
        except TimeoutError as error:
            raise NotSent(f"no answer within {self._timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise NotSent(f"{type(error).__name__}: {error}") from error
        raise self._refused(response.status_code, response.headers, start)

    def _headers(self, body: bytes, key: str) -> dict[str, str]:
        timestamp = int(self._clock())
        return {
            "Content-Type": "application/json",
            "User-Agent": "eventray",
            "Idempotency-Key": key,
            "Eventray-Timestamp": str(timestamp),
            "Eventray-Signature": signature(self._secret.get_secret_value(), timestamp, body),
        }

    def _refused(self, status: int, headers: Mapping[str, str], start: bytes) -> Exception:
        answer = ascii(start[:ANSWER_SHOWN_MAX_BYTES].decode("utf-8", "replace"))
        reason = f"the receiver answered {status}" + (f": {answer}" if start else "")
        if status in REFUSED_FOR_GOOD:
            return Undeliverable(reason)
        if status in (429, 503) and (after_s := _retry_after_s(headers.get("Retry-After", ""), self._clock())):
            return RetryLater(reason, after_s)
        return NotSent(reason)


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """Return what proves that the holder of the secret has sent this body then (seconds since 1970).

    `v1=` and the HMAC-SHA256, in hexadecimal digits, of the timestamp in decimal digits, a full stop, and the body.
    """
    signed = f"{timestamp}.".encode() + body
    return f"v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def _retry_after_s(value: str, now: float) -> float:
    """Return how long a Retry-After says to wait, as seconds or until a date; 0 where it says nothing that is one."""
    if value.strip().isdecimal():
        after_s = float(value)
    else:
        try:
            until = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        after_s = (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - now
    return min(max(after_s, 0.0), RETRY_AFTER_MAX_S)


@cache
def _tls() -> ssl.SSLContext:
    """Made once, since reading all the certificates takes longer than a call."""
    context: ssl.SSLContext = _httpx().create_ssl_context()
    return context


@cache
def _httpx() -> Any:
    import httpx  # here, so that who calls nobody needn't wait for it

    for name in ("httpx", "httpcore"):  # they log URLs, which may hold secrets
        logging.getLogger(name).setLevel(logging.WARNING)
    return httpx
