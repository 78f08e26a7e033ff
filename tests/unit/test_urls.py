"""Store URLs: what they name, and what of them may be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import InvalidValue
from store.urls import parsed_url, shared_url, shown_url


@pytest.mark.parametrize(
    ("url", "scheme", "path"),
    [
        ("memory://", "memory", ""),
        ("memory://shop", "memory", "shop"),
        ("sqlite:///shop.db", "sqlite", "shop.db"),
        ("sqlite:////var/shop.db", "sqlite", "/var/shop.db"),
        ("postgresql://ada@host/shop", "postgresql", "shop"),
        ("postgresql://ada:pw@host:5433/shop?sslmode=require", "postgresql", "shop"),
        ("postgresql:///shop?host=/run/postgresql", "postgresql", "shop"),
    ],
)
def test_a_url_names_a_backend_and_a_place(url: str, scheme: str, path: str) -> None:
    assert parsed_url(url) == (scheme, path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada@host/shop", "postgresql://ada@host/shop"),
        ("postgresql://ada:pw@host/shop", "postgresql://ada:***@host/shop"),
        ("postgresql://ada:p@w/x:y@host:5433/shop", "postgresql://ada:***@host:5433/shop"),
        ("postgresql://host:5433/shop", "postgresql://host:5433/shop"),
        ("postgresql:///shop?user=ada&password=pw&host=h", "postgresql:///shop?user=ada&password=***&host=h"),
        ("postgresql:///shop?sslpassword=pw", "postgresql:///shop?sslpassword=***"),
        ("sqlite:////var/shop.db", "sqlite:////var/shop.db"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize("url", [5, None, b"sqlite:///shop.db", Path("shop.db")], ids=repr)
def test_what_is_no_text_is_no_url(url: Any) -> None:
    for meant in (parsed_url, shared_url):
        with pytest.raises(InvalidValue, match=r"^store = .*: give sqlite:///FILE"):
            meant(url)


@pytest.mark.parametrize("url", ["memory://shop?mode=ro", "sqlite:///shop.db?mode=ro"])
def test_an_option_that_a_store_does_not_take_is_named(url: str) -> None:
    with pytest.raises(InvalidValue, match=r"leave out \?mode=ro"):
        parsed_url(url)


@given(st.text(min_size=1).map(lambda text: f"<{text}>"))
def test_no_password_survives(password: str) -> None:
    assert password not in shown_url(f"postgresql://ada:{password}@host/shop")
