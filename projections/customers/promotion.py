"""A notice to another system of each customer that was promoted.

Not here: how it is sent and signed (`projections/webhook.py`).
"""

from __future__ import annotations

import json
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from actors.customers import CustomerPromoted
from projections.environment import read_environment
from projections.handler import Handler, Policy
from projections.webhook import Secret, Url, Webhook

POLICY = Policy(attempts_max=12, wait_first_s=1.0, wait_max_s=300.0, timeout_s=60.0)
"""A receiver may be away for some 18 minutes before keys are parked."""


class PromotionWebhookSettings(BaseSettings):
    """The receiver, by EVENTRAY_PROMOTION_WEBHOOK_URL and so on; without a URL nobody is told."""

    model_config = SettingsConfigDict(
        env_prefix="EVENTRAY_PROMOTION_WEBHOOK_",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    url: Url | None = None
    secret: Secret | None = None
    """Shared with the receiver; at least 16 characters."""
    timeout_s: Annotated[float, Field(ge=0.01, le=50)] = 10.0
    """How long a call may take."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.url is not None and self.secret is None:
            raise ValueError("EVENTRAY_PROMOTION_WEBHOOK_SECRET: with a URL, a secret to sign calls by was expected")
        return self


class PromotionNotice(Handler, policy=POLICY):
    """Off until EVENTRAY_PROMOTION_WEBHOOK_URL is set; see `PromotionWebhookSettings`."""

    def __init__(self, settings: PromotionWebhookSettings | None = None) -> None:
        """Raises InvalidValue where a variable is wrong or missing."""
        settings = settings or read_environment(PromotionWebhookSettings)
        nobody = SecretStr("")
        self._webhook = Webhook(settings.url or nobody, settings.secret or nobody, settings.timeout_s)
        self._off = "" if settings.url else "EVENTRAY_PROMOTION_WEBHOOK_URL is not set"

    @property
    def off(self) -> str:
        return self._off

    async def on_promoted(self, event: CustomerPromoted) -> None:
        """Raises Undeliverable, RetryLater, NotSent."""
        notice = {
            "id": str(event.id),
            "type": event.event_type,
            "occurred_at": event.occurred_at.isoformat(),
            "data": event.model_dump(mode="json"),
        }
        await self._webhook.post(json.dumps(notice).encode(), self.idempotency_key(event))
