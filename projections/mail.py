"""Mails by SMTP: where to, how, and what a refusal means for the handler that sends one.

One connection for each mail. Not here: what is written in it (the handlers), and when it is tried again (`Policy`).
"""

from __future__ import annotations

from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Annotated, Literal, Self
from urllib.parse import quote

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from projections.errors import NotSent, Undeliverable


class SmtpSettings(BaseSettings):
    """The mail server, by EVENTRAY_SMTP_HOST and so on; without a host no mail is sent."""

    model_config = SettingsConfigDict(
        env_prefix="EVENTRAY_SMTP_", frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    host: str = ""
    port: Annotated[int, Field(ge=1, le=65_535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls`: encrypted before anything is said; `tls`: from the first byte (port 465); `none`: in the clear."""
    sender: str = ""
    """Whom mails are from: `shop@example.com` or `The Shop <shop@example.com>`."""
    username: str = ""
    password: SecretStr = SecretStr("")
    timeout_s: Annotated[float, Field(ge=0.01, le=600)] = 10.0
    """How long the server may take for each step."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.host:
            return self
        local, at, domain = parseaddr(self.sender)[1].rpartition("@")
        if not (local and at and domain):
            raise ValueError("EVENTRAY_SMTP_SENDER: with a host, an address such as shop@example.com was expected")
        if self.username and self.security == "none":
            raise ValueError("EVENTRAY_SMTP_SECURITY: a password would travel in the clear: use starttls or tls")
        if bool(self.username) != bool(self.password.get_secret_value()):
            raise ValueError("EVENTRAY_SMTP_USERNAME and EVENTRAY_SMTP_PASSWORD: give both, or neither")
        return self

    @property
    def domain(self) -> str:
        """The sender's."""
        return parseaddr(self.sender)[1].rpartition("@")[2]


class Mailer:
    """Sends mails by one server."""

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings

    @property
    def off(self) -> str:
        """Why it can send nothing; empty: it can."""
        return "" if self._settings.host else "EVENTRAY_SMTP_HOST is not set"

    def message(self, key: str, name: str, email: str, subject: str, text: str, at: datetime) -> EmailMessage:
        """Return a mail to one person. The same `key` gives the same Message-ID, by which receivers drop repetitions.

        Raises Undeliverable where no header can hold the address or the subject.
        """
        message = EmailMessage()
        try:
            message["From"] = self._settings.sender
            message["To"] = _address(name, email)
            message["Subject"] = subject
        except (ValueError, IndexError) as error:  # the parser of addresses raises both
            raise Undeliverable(f"no mail can be addressed to {email!a}: {error}") from error
        message["Message-ID"] = f"<{quote(key, safe='')}@{self._settings.domain}>"
        message["Date"] = format_datetime(at)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        return message

    async def send(self, message: EmailMessage) -> None:
        """Hand a mail to the server; returns once that has taken it on.

        Raises Undeliverable where the server refuses the recipient or the mail for good; NotSent for all else: no
        connection, a refusal for now, or one that is about the sender rather than this mail. Then nobody knows whether
        the mail is on its way, if the connection was lost late.
        """
        import aiosmtplib  # here, so that who sends no mails needn't wait for it

        settings = self._settings
        try:
            await aiosmtplib.send(
                message,
                hostname=settings.host,
                port=settings.port,
                timeout=settings.timeout_s,
                use_tls=settings.security == "tls",
                start_tls=settings.security == "starttls",
                username=settings.username or None,
                password=settings.password.get_secret_value() or None,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _refused(error.recipients[0].code, error.recipients[0].message) from error
        except (aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError) as error:
            raise _refused(error.code, error.message) from error
        except aiosmtplib.SMTPNotSupported as error:
            raise Undeliverable(f"the mail server can't take it: {error.message}") from error
        except aiosmtplib.SMTPResponseException as error:
            raise NotSent(f"the mail server answered {error.code} {error.message}") from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise NotSent(f"{type(error).__name__}: {error}") from error


def _refused(code: int, answer: str) -> Undeliverable | NotSent:
    reason = f"the mail server answered {code} {answer}"
    return Undeliverable(reason) if code >= 500 else NotSent(reason)


def _address(name: str, email: str) -> Address:
    local, _, domain = email.rpartition("@")
    return Address(name, local, domain.encode("idna").decode())
