"""`eventray scale` and `rebalance`, beside a runtime that another process runs."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from actors.customers import CreateCustomer
from cluster import Runtime
from store import open_store
from tests.acceptance.commandline import ROOT, environment


async def eventray(*words: str) -> tuple[int, str, str]:
    """Run a verb; return its exit code, stdout and stderr."""
    program = [sys.executable, "-c", "from cluster.cli import main; main()", *words]
    verb = await asyncio.create_subprocess_exec(
        *program, cwd=ROOT, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await verb.communicate()
    return int(verb.returncode or 0), out.decode(), errors.decode()


@pytest.mark.timeout(120)
async def test_a_runtime_is_scaled_from_outside_while_it_works(ray_address: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    async with Runtime.open(url, shards=8) as runtime:
        working = True

        async def work(customer: int) -> int:
            done = 0
            while working:
                command = CreateCustomer(customer_id=f"c-{customer}-{done}", name="Ada", email="ada@example.com")
                await runtime.submit(command)
                done += 1
            return done

        workers = [asyncio.create_task(work(customer)) for customer in range(10)]
        code, out, errors = await eventray("scale", "--hosts", "2", "--store", url, "--address", ray_address, "--json")
        assert code == 0, errors
        assert sorted(json.loads(out)["shards"].values()) == [4, 4]
        assert len((await runtime.scale(1)).hosts) == 1
        working = False
        assert sum(await asyncio.gather(*workers)) > 100
        code, out, errors = await eventray("scale", "--hosts", "9", "--store", url, "--address", ray_address)
        assert (code, errors) == (1, "eventray: hosts = 9: give 1 to 8: each needs a shard of its own\n")


async def test_where_no_runtime_is_it_is_said_in_a_line(ray_address: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    await (await open_store(url)).close()
    code, _, errors = await eventray("rebalance", "--store", url, "--address", ray_address)
    assert code == 1
    assert errors.startswith(f"eventray: No runtime on {url} was found: none is on the Ray at {ray_address}. Bring")
    assert errors.count("\n") == 1
