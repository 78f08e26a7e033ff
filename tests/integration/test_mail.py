"""The welcome mail, sent to SMTP servers on loopback: one that takes it, and others that refuse, stall and hang up."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from actors.customers import CreateCustomer
from cluster.application import default_application
from cluster.testing import InProcessRuntime
from projections.customers import WelcomeMail
from projections.deliveries import failure_of
from projections.errors import NotSent, Undeliverable
from projections.handler import Policy
from projections.mail import SmtpSettings
from store import open_store
from tests.logs import created

QUICK = Policy(attempts_max=4, wait_first_s=0.01, wait_max_s=0.02)


@dataclass
class Inbox:
    """What an SMTP server was given, and what it says to each try: nothing more is everything's fine."""

    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    at_recipient: list[str] = field(default_factory=list)
    at_data: list[str] = field(default_factory=list)
    tries: int = 0

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.tries += 1
        if self.at_recipient:
            return self.at_recipient.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        answer = self.at_data.pop(0) if self.at_data else "250 OK"
        if answer == "stall":
            await asyncio.sleep(60)
        if answer.startswith("2"):
            content = envelope.content
            assert isinstance(content, bytes)
            mail = message_from_bytes(content, policy=policy.default)
            assert isinstance(mail, EmailMessage)
            self.mails.append(mail)
            self.recipients += envelope.rcpt_tos
        if answer.endswith("hang up"):
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        return answer


@asynccontextmanager
async def listening(serve: Callable[[], asyncio.Protocol]) -> AsyncIterator[SmtpSettings]:
    server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0)
    try:
        yield settings_for(server.sockets[0].getsockname()[1])
    finally:
        server.close()


def settings_for(port: int, **more: Any) -> SmtpSettings:
    return SmtpSettings(
        host="127.0.0.1", port=port, security="none", sender="The Shop <shop@shop.example>", timeout_s=0.5, **more
    )


@pytest.fixture
async def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
async def server(inbox: Inbox) -> AsyncIterator[SmtpSettings]:
    async with listening(lambda: SMTP(inbox, hostname="mx.example")) as settings:
        yield settings


async def test_a_mail_says_who_it_is_for_and_a_repetition_has_the_same_id(inbox: Inbox, server: SmtpSettings) -> None:
    event = created("c-1")
    for _ in range(2):
        await WelcomeMail(server).on_created(event)
    first, again = inbox.mails
    assert inbox.recipients == ["c-1@a.example"] * 2
    assert (first["To"], first["From"]) == ("Name of c-1 <c-1@a.example>", "The Shop <shop@shop.example>")
    assert first["Subject"] == "Welcome, Name of c-1"
    assert "Dear Name of c-1," in first.get_content()
    assert first["Date"].datetime == event.occurred_at.replace(microsecond=0)
    assert first["Message-ID"] == again["Message-ID"] == f"<{event.id}.WelcomeMail@shop.example>"


async def test_names_and_addresses_of_all_the_world_are_sent_as_they_are(inbox: Inbox, server: SmtpSettings) -> None:
    mailer = WelcomeMail(server)
    event = created("c-1")
    for name, email in [
        ('Zoë "Z", <x@y>', "zoe@bücher.example"),
        ("名前", "n@a.example"),
        ("a, b; c", "'q'+x@a.example"),
    ]:
        await mailer.on_created(event.model_copy(update={"name": name, "email": email}))
        assert inbox.mails[-1]["To"].addresses[0].display_name == name
    assert inbox.recipients == ["zoe@xn--bcher-kva.example", "n@a.example", "'q'+x@a.example"]


@pytest.mark.parametrize(("name", "email"), [("Ada\r\nBcc: x@y.example", "a@b.example"), ("Ada", "a\r\n@b.example")])
async def test_no_header_comes_in_by_a_name_or_an_address(
    inbox: Inbox, server: SmtpSettings, name: str, email: str
) -> None:
    event = created("c-1").model_copy(update={"name": name, "email": email})
    with pytest.raises(Undeliverable, match="no mail can be addressed"):
        await WelcomeMail(server).on_created(event)
    assert inbox.tries == 0


@pytest.mark.parametrize("stage", ["at_recipient", "at_data"])
@pytest.mark.parametrize(
    ("answer", "error"), [("550 5.1.1 no such user", Undeliverable), ("451 4.7.1 greylisted", NotSent)]
)
async def test_a_refusal_is_for_good_or_for_now_by_its_code(
    inbox: Inbox, server: SmtpSettings, stage: str, answer: str, error: type[Exception]
) -> None:
    setattr(inbox, stage, [answer])
    with pytest.raises(error, match=f"the mail server answered {answer}"):
        await WelcomeMail(server).on_created(created("c-1"))
    await WelcomeMail(server).on_created(created("c-1"))
    assert len(inbox.mails) == 1


@pytest.mark.parametrize("answer", ["stall", "hang up", "250 and hang up"])
async def test_a_server_that_stalls_or_hangs_up_gives_no_answer_in_time(
    inbox: Inbox, server: SmtpSettings, answer: str
) -> None:
    inbox.at_data = [answer]
    with pytest.raises(NotSent, match=r"Timeout|Disconnected"):
        await asyncio.wait_for(WelcomeMail(server).on_created(created("c-1")), 5)


class DropsMidMessage(asyncio.Protocol):
    """Hangs up after the first bytes of the mail."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"220 mx.example\r\n")

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"DATA"):
            self.transport.write(b"354 go on\r\n")
        elif data.startswith((b"EHLO", b"MAIL", b"RCPT")):
            self.transport.write(b"250 OK\r\n")
        else:
            self.transport.abort()


class RefusesTheSender(DropsMidMessage):
    """Has something against us, not against the mail."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"550 who are you?\r\n" if data.startswith(b"MAIL") else b"250 OK\r\n")


@pytest.mark.parametrize("server_class", [DropsMidMessage, RefusesTheSender])
async def test_what_is_no_fault_of_the_mail_is_tried_again(server_class: type[asyncio.Protocol]) -> None:
    async with listening(server_class) as settings:
        with pytest.raises(NotSent):
            await WelcomeMail(settings).on_created(created("c-1"))


async def test_where_nobody_listens_nothing_is_sent() -> None:
    async with listening(asyncio.Protocol) as settings:
        pass
    with pytest.raises(NotSent, match="ConnectError"):
        await WelcomeMail(settings).on_created(created("c-1"))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and the certificate of 127.0.0.1 that goes with it, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx")])
    now, address = datetime.now(UTC), x509.IPAddress(ip_address("127.0.0.1"))
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    written = builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    file = tmp_path / "mx.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + written.public_bytes(pem))
    return file


@asynccontextmanager
async def encrypting(inbox: Inbox, certificate: Path) -> AsyncIterator[SmtpSettings]:
    """A server that takes mails from who encrypts and gives the password, and from nobody else."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def knows(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"shop", b"right"), handled=False)

    more: dict[str, Any] = {
        "tls_context": context,
        "require_starttls": True,
        "auth_required": True,
        "authenticator": knows,
    }
    async with listening(lambda: SMTP(inbox, hostname="mx.example", **more)) as settings:
        yield settings


async def test_it_encrypts_and_gives_its_password(
    inbox: Inbox, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with encrypting(inbox, certificate) as plain:
        known = {"security": "starttls", "username": "shop", "password": SecretStr("right")}
        settings = plain.model_copy(update=known)
        await WelcomeMail(settings).on_created(created("c-1"))
        assert inbox.recipients == ["c-1@a.example"]
        wrong = settings.model_copy(update={"password": SecretStr("hunter2")})
        with pytest.raises(NotSent, match="535") as refused:
            await WelcomeMail(wrong).on_created(created("c-1"))
        assert "hunter2" not in failure_of(refused.value).error + failure_of(refused.value).traceback


async def test_a_server_that_is_not_who_it_should_be_gets_neither_mail_nor_password(
    inbox: Inbox, certificate: Path
) -> None:
    async with encrypting(inbox, certificate) as plain:
        known = {"security": "starttls", "username": "shop", "password": SecretStr("right")}
        with pytest.raises(NotSent, match="certificate"):
            await WelcomeMail(plain.model_copy(update=known)).on_created(created("c-1"))
    assert inbox.tries == 0


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_the_environment_turns_it_on_in_the_shop_and_each_customer_is_welcomed(
    inbox: Inbox, server: SmtpSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WelcomeMail, "policy", QUICK)
    for name, value in (("HOST", "127.0.0.1"), ("PORT", str(server.port)), ("SECURITY", "none")):
        monkeypatch.setenv(f"EVENTRAY_SMTP_{name}", value)
    monkeypatch.setenv("EVENTRAY_SMTP_SENDER", "shop@shop.example")
    inbox.at_recipient = ["451 later", "550 never"]
    async with InProcessRuntime.open("memory://welcome", app=default_application(), shards=1) as runtime:
        store = await open_store("memory://welcome", create=False)
        for customer in ("c-1", "c-2", "c-3"):
            await runtime.submit(CreateCustomer(customer_id=customer, name="Ada", email=f"{customer}@a.example"))

        async def settled() -> bool:  # a key whose mail is under way has a row too
            return len(inbox.mails) == 2 and len(await store.parked()) == 1

        await until(settled)
        (parked,) = await store.parked("WelcomeMail")
        assert (parked.partition_key, parked.attempts) == ("c-1", 2)
        assert "answered 550 never" in parked.error
        await store.wish("WelcomeMail", ["c-1"], "retry")

        async def all_are_there() -> bool:
            return sorted(inbox.recipients) == ["c-1@a.example", "c-2@a.example", "c-3@a.example"]

        await until(all_are_there)
        await store.close()
