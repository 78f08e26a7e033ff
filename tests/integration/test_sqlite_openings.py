"""A store that one process opens more than once, while others come and go."""

from __future__ import annotations

import subprocess
import sys

from store import open_store

LOOK = """
import asyncio, sys
from store import open_store

async def main():
    store = await open_store(sys.argv[1], create=False)
    print({route.host for route in await store.routes()})
    await store.close()

asyncio.run(main())
"""


def seen_by_another_process(url: str) -> str:
    return subprocess.run([sys.executable, "-c", LOOK, url], capture_output=True, text=True, check=True).stdout.strip()


async def test_a_second_opening_does_not_cut_the_first_off_from_other_processes(store_url: str) -> None:
    first = await open_store(store_url)
    generation = await first.take("test")
    second = await open_store(store_url)
    await second.routes()
    assert seen_by_another_process(store_url) == "{None}"  # it closes the file too, the last one as far as it can see
    await first.assign(generation, dict.fromkeys(range(first.shards), "host-a"))
    assert seen_by_another_process(store_url) == "{'host-a'}"
    await second.close()
    await first.close()
