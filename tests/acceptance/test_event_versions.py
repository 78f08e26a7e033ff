"""What the page on event versions tells people to write and to type works as it says; no Ray."""

import re
import sys
from pathlib import Path

import pytest

from tests.acceptance.commandline import Done, in_process
from tests.acceptance.test_tutorial import blocks, python

pytestmark = pytest.mark.timeout(120)
PAGE = "docs/event-versions.md"
VERSION = ", schema_version=2, upcasters=[Upcaster(1, 2, in_grams)]"
SEND = """
import asyncio
from cluster.testing import InProcessRuntime
from parcels import SendParcel, application

async def main():
    async with InProcessRuntime.open("sqlite:///parcels.db", app=application) as runtime:
        await runtime.submit(SendParcel(parcel_id="p-1", weight_kg=1.5))

asyncio.run(main())
"""


@pytest.fixture
def files() -> dict[str, list[str]]:
    """The page's files by name, each in all its states, in order."""
    found: dict[str, list[str]] = {}
    for text in blocks(PAGE, "python"):
        name = re.match(r"# (\w+\.py)\n", text)
        assert name, f"a block of the page doesn't begin with its file's name: {text[:60]!r}"
        found.setdefault(name[1], []).append(text)
    return found


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory from which modules are imported, for this test only."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def typed(directory: Path, session: str) -> list[Done]:
    """Type a session of `eventray` commands, in each of which the modules are imported anew."""
    done = []
    for line in session.splitlines():
        sys.modules.pop("parcels", None)
        done.append(in_process(directory, *line.removeprefix("$ eventray ").split()))
    sys.modules.pop("parcels", None)
    return done


def test_a_row_of_version_1_is_read_as_version_2_and_the_check_says_what_the_page_says(
    shop: Path, files: dict[str, list[str]]
) -> None:
    first, second = files["parcels.py"]
    freeze, check_and_freeze = blocks(PAGE, "console")
    (shop / "parcels.py").write_text(first)
    (frozen,) = typed(shop, freeze)
    assert frozen.exit_code == 0, frozen
    python(shop, "-B", "-c", SEND)

    assert VERSION in second
    (shop / "parcels.py").write_text(second.replace(VERSION, ""))
    careless, refused, _ = typed(shop, check_and_freeze)
    assert [careless.exit_code, refused.exit_code] == [1, 1]
    assert [careless.out] == blocks(PAGE, "text")

    (shop / "parcels.py").write_text(second)
    asked, frozen, passed = typed(shop, check_and_freeze)
    assert [asked.exit_code, frozen.exit_code, passed.exit_code] == [0, 0, 0]
    assert "compatible: ParcelSent version 2: this version is new" in asked.out
    assert "1 event types read all that" in passed.out
    (shown,) = typed(shop, "show parcel-p-1 --store sqlite:///parcels.db --app parcels:application --json")
    assert shown.json["weight_g"] == 1500

    (shop / "test_parcels.py").write_text(files["test_parcels.py"][0])
    (*_, summary) = python(shop, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_parcels.py")
    assert summary.startswith("1 passed")
