"""What is sent to the shop's customers and to other systems: off without settings, and no secret is ever shown."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

from cluster.application import default_application
from cluster.coordinator import RuntimePlan
from cluster.settings import Settings
from projections.customers import PromotionNotice, WelcomeMail
from store.errors import InvalidValue

SECRET = "hunter2 hunter2 hunter2"
URL = f"https://receiver.example/hook?token={SECRET.replace(' ', '')}"
MAIL = {"HOST": "mx.example", "SENDER": "shop@shop.example", "USERNAME": "shop", "PASSWORD": SECRET}
HOOK = {"URL": URL, "SECRET": SECRET}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(prefix: str, values: dict[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"EVENTRAY_{prefix}_{name}", value)

    return put


def test_without_settings_both_are_off_and_say_which_are_missing() -> None:
    offs = {handler.name: handler.off for handler in default_application().make_handlers()}
    assert offs == {
        "WelcomeMail": "EVENTRAY_SMTP_HOST is not set",
        "PromotionNotice": "EVENTRAY_PROMOTION_WEBHOOK_URL is not set",
    }


def test_while_they_are_off_their_libraries_are_not_even_imported() -> None:
    script = """
import sys
from cluster.application import default_application
default_application().make_handlers()
print([name for name in ("aiosmtplib", "httpx") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_turn_them_on_and_travel_with_them(environment: Any) -> None:
    environment("SMTP", MAIL)
    environment("PROMOTION_WEBHOOK", HOOK)
    handlers = default_application().make_handlers()
    for handler in (*handlers, *pickle.loads(pickle.dumps(handlers))):
        assert handler.off == ""


def test_no_secret_is_in_a_repr(environment: Any) -> None:
    environment("SMTP", MAIL)
    environment("PROMOTION_WEBHOOK", HOOK)
    application = default_application()
    handlers = application.make_handlers()
    plan = RuntimePlan("memory://x", "namespace", "holder", 1, application, Settings(), handlers=handlers)
    inside = [each for handler in handlers for each in vars(handler).values()]
    said = repr([plan, handlers, inside, [vars(each) for each in inside if hasattr(each, "__dict__")]])
    assert "mx.example" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"HOST": "mx.example"}, "EVENTRAY_SMTP_SENDER"),
        ({**MAIL, "SENDER": "nobody"}, "EVENTRAY_SMTP_SENDER"),
        ({**MAIL, "PORT": "many"}, "EVENTRAY_SMTP_PORT"),
        ({**MAIL, "PORT": "0"}, "EVENTRAY_SMTP_PORT"),
        ({**MAIL, "SECURITY": "none"}, "EVENTRAY_SMTP_SECURITY"),
        ({**MAIL, "SECURITY": "ssl"}, "EVENTRAY_SMTP_SECURITY"),
        ({**MAIL, "USERNAME": ""}, "EVENTRAY_SMTP_USERNAME"),
        ({**MAIL, "TIMEOUT_S": "nan"}, "EVENTRAY_SMTP_TIMEOUT_S"),
    ],
)
def test_mail_settings_that_can_not_be_meant_are_named(environment: Any, values: dict[str, str], named: str) -> None:
    environment("SMTP", values)
    with pytest.raises(InvalidValue, match=named) as found:
        WelcomeMail()
    assert SECRET not in f"{found.value!r} {found.value} {found.value.__cause__!r}"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"URL": URL}, "EVENTRAY_PROMOTION_WEBHOOK_SECRET"),
        ({**HOOK, "SECRET": "hunter2"}, "EVENTRAY_PROMOTION_WEBHOOK_SECRET"),
        ({**HOOK, "URL": "ftp://hunter2@receiver.example"}, "EVENTRAY_PROMOTION_WEBHOOK_URL"),
        ({**HOOK, "URL": "https://shop:hunter2/@receiver.example"}, "EVENTRAY_PROMOTION_WEBHOOK_URL"),
        ({**HOOK, "URL": "https://"}, "EVENTRAY_PROMOTION_WEBHOOK_URL"),
        ({**HOOK, "TIMEOUT_S": "0"}, "EVENTRAY_PROMOTION_WEBHOOK_TIMEOUT_S"),
    ],
)
def test_webhook_settings_that_can_not_be_meant_are_named(environment: Any, values: dict[str, str], named: str) -> None:
    environment("PROMOTION_WEBHOOK", values)
    with pytest.raises(InvalidValue, match=named) as found:
        PromotionNotice()
    assert "hunter2" not in f"{found.value!r} {found.value} {found.value.__cause__!r}"
