"""A mail that welcomes each new customer.

Not here: how a mail is sent (`projections/mail.py`).
"""

from __future__ import annotations

from actors.customers import CustomerCreated
from projections.environment import read_environment
from projections.handler import Handler, Policy
from projections.mail import Mailer, SmtpSettings

POLICY = Policy(attempts_max=12, wait_first_s=1.0, wait_max_s=300.0, timeout_s=60.0)
"""A mail server may be away for some 18 minutes before keys are parked."""


class WelcomeMail(Handler, policy=POLICY):
    """Off until EVENTRAY_SMTP_HOST is set; see `SmtpSettings`."""

    def __init__(self, settings: SmtpSettings | None = None) -> None:
        """Raises InvalidValue where a variable is wrong or missing."""
        self._mailer = Mailer(settings or read_environment(SmtpSettings))

    @property
    def off(self) -> str:
        return self._mailer.off

    async def on_created(self, event: CustomerCreated) -> None:
        """Raises Undeliverable, NotSent."""
        key = self.idempotency_key(event).replace(":", ".")
        subject = f"Welcome, {event.name}"
        text = f"Dear {event.name},\n\nwelcome! Your customer number is {event.customer_id}.\n"
        message = self._mailer.message(key, event.name, event.email, subject, text, event.occurred_at)
        await self._mailer.send(message)
