"""How a user's own application reaches Ray's workers: from a script, from a module beside it, and not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import Runtime
from cluster.application import load_application
from cluster.runtime import ApplicationNotThere
from tests.unit.test_application import SCRIPT

RUN = """
import asyncio
import sys

from cluster import Runtime

async def main():
    async with Runtime.open(sys.argv[1], app=application) as runtime:
        receipt = await runtime.submit(Open(account_id="a-1"))
        print(await runtime.query(Accounts, "a-1", after=receipt), type(await runtime.load(Account, "a-1")).__module__)

if __name__ == "__main__":
    asyncio.run(main())
"""


def run(script: Path, *arguments: str, address: str) -> str:
    """Run a driver of its own on the tests' Ray, from another directory; return what it prints."""
    found = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={
            **os.environ,
            "RAY_ADDRESS": address,
            "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token"),
            "PYTHONPATH": str(Path.cwd()),
        },
        cwd="/",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_classes_of_the_script_itself(ray_address: str, tmp_path: Path, store_url: str) -> None:
    script = tmp_path / "bank.py"
    script.write_text(SCRIPT + RUN)
    assert run(script, store_url, address=ray_address) == "{'id': 'a-1'} __main__\n"


def test_a_module_beside_the_script(ray_address: str, tmp_path: Path, store_url: str) -> None:
    (tmp_path / "bank_beside.py").write_text(SCRIPT)
    script = tmp_path / "main.py"
    script.write_text("from bank_beside import Account, Accounts, Open, application\n" + RUN)
    assert run(script, store_url, address=ray_address) == "{'id': 'a-1'} bank_beside\n"


async def test_what_the_workers_can_not_import_is_said(
    ray_address: str, tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bank_elsewhere.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ApplicationNotThere, match="bank_elsewhere"):
        await Runtime.open(store_url, app=load_application("bank_elsewhere:application"))
