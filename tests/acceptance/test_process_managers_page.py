"""What the page on process managers tells people to write and to type works as it says; no Ray."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.acceptance.commandline import in_process
from tests.acceptance.test_tutorial import blocks

PAGE = "docs/process-managers.md"


def test_the_example_and_the_commands_of_the_page_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    for text in blocks(PAGE, "python"):
        name = re.match(r"# (\w+\.py)\n", text)
        assert name, f"a block of the page doesn't begin with its file's name: {text[:60]!r}"
        here = text.replace("from cluster import Runtime", "from cluster.testing import InProcessRuntime as Runtime")
        (tmp_path / name[1]).write_text(here)
    import run_stock  # type: ignore[import-not-found]

    for _ in range(2):
        asyncio.run(run_stock.main())
        assert capsys.readouterr().out == "24 0\n"
    (session,) = blocks(PAGE, "console")
    status, query = (
        in_process(tmp_path, *line.removeprefix("$ eventray ").split(), "--json").json for line in session.splitlines()
    )
    (restocking,) = status["process_managers"]
    figures = ("name", "behind", "waiting", "acknowledged", "refused", "failed")
    assert [restocking[figure] for figure in figures] == ["Restocking", 0, 0, 1, 0, 0]
    assert query == {"item_id": "i-1", "left": 24, "due": 0}
    page = in_process(tmp_path, *session.splitlines()[0].removeprefix("$ eventray ").split())
    assert re.search(r"Process managers.*\n Restocking +0 +0 +0 +1 +0 +0 *\n", page.out, re.DOTALL), page.out
