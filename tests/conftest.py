"""What all tests may ask for: a PostgreSQL server, and room in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests import postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """One server for the whole run. Without it the tests that ask for it fail."""
    with postgres.running_server() as server:
        yield server


@pytest.fixture
def new_postgres_url(postgres_server: postgres.Server) -> Iterator[Callable[[], str]]:
    """Return the URL of an empty schema, another at each call."""
    with ExitStack() as schemas:
        yield lambda: schemas.enter_context(postgres_server.schema())


@pytest.fixture
def postgres_url(new_postgres_url: Callable[[], str]) -> str:
    """The URL of an empty schema of the test's own."""
    return new_postgres_url()
