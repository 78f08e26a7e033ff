"""What the driver's errors mean, by SQLSTATE and constraint name alone."""

from __future__ import annotations

import ssl

import asyncpg
import pytest

from store import EventrayError, InvalidValue, OutcomeUnknown, StoreDamaged, StoreRejected, StoreUnavailable
from store.postgres_database import PostgresDatabase
from store.postgres_errors import store_error, undone_by_rival


def raised(state: str, constraint: str = "") -> asyncpg.PostgresError:
    fields = {"S": "FEHLER", "C": state, "M": "irgend etwas", "n": constraint}
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(fields)
    return error


def kind(error: EventrayError) -> tuple[str, bool | None]:
    return type(error).__name__, getattr(error, "passing", None)


@pytest.mark.parametrize("committing", [False, True])
@pytest.mark.parametrize(
    ("state", "expected"),
    [
        *((state, (StoreRejected, None)) for state in ("23505", "23502", "22021", "22003")),
        *((state, (StoreUnavailable, True)) for state in ("40001", "40P01", "55P03", "57014", "53200", "53300")),
        *((state, (StoreUnavailable, False)) for state in ("53100", "25006", "42501", "28P01", "57P04")),
        *((state, (StoreDamaged, False)) for state in ("XX001", "XX002")),
    ],
)  # fmt: skip
def test_an_answer_of_the_server_is_known_whenever_it_comes(
    state: str, expected: tuple[type[EventrayError], bool | None], committing: bool
) -> None:
    error = store_error(raised(state), committing)
    assert kind(error) == (expected[0].__name__, expected[1])
    assert state in str(error)


@pytest.mark.parametrize(
    "error",
    [*map(raised, ("57P01", "57P02", "57P03", "08006", "08003", "25P03", "40003")),
     ConnectionResetError(104, "reset"), TimeoutError(), asyncpg.InterfaceError("connection is closed")],
    ids=str,
)  # fmt: skip
def test_an_ended_session_is_passing_before_the_commit_and_unknown_after_it(error: Exception) -> None:
    assert kind(store_error(error)) == (StoreUnavailable.__name__, True)
    assert kind(store_error(error, committing=True)) == (OutcomeUnknown.__name__, None)


def test_a_server_whose_certificate_is_not_trusted_will_not_pass() -> None:
    assert kind(store_error(ssl.SSLCertVerificationError("self-signed"))) == (StoreUnavailable.__name__, False)


@pytest.mark.parametrize("error", [OverflowError("int too big"), "\ud800", TypeError("expected str")])
def test_a_value_without_a_form_is_refused(error: Exception | str) -> None:
    if isinstance(error, str):
        with pytest.raises(UnicodeEncodeError) as refused:
            error.encode()
        error = refused.value
    assert kind(store_error(error)) == (StoreRejected.__name__, None)


def test_the_constraint_is_named() -> None:
    error = store_error(raised("23505", "events_stream_version_key"))
    assert "events_stream_version_key" in str(error)


def test_only_what_a_rival_undid_is_run_again() -> None:
    assert [state for state in ("40001", "40P01", "23505", "55P03", "57P01") if undone_by_rival(raised(state))] == [
        "40001",
        "40P01",
    ]
    assert undone_by_rival(raised("23505", "hosts_pk"))
    assert not undone_by_rival(raised("23505", "events_pk"))


@pytest.mark.parametrize(("option", "refused"), [("?colour=red", InvalidValue), ("", asyncpg.UndefinedObjectError)])
async def test_an_option_that_the_server_does_not_take_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, option: str, refused: type[Exception]
) -> None:
    async def connect(*_: object, **__: object) -> None:
        raise asyncpg.UndefinedObjectError('unrecognized configuration parameter "colour"')

    monkeypatch.setattr(asyncpg, "connect", connect)
    with pytest.raises(refused, match='"colour"'):
        await PostgresDatabase(f"postgresql://u@h/db{option}").connect()
