"""The commands that the acceptance tests run join the one Ray of the run, which spares each the seconds of a start.

A test of what happens where no Ray is there asks for a new one by RAY_ADDRESS=local.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _joined_ray(ray_address: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray_address)
        yield
