"""A cluster of two nodes, made by hand with the shipped commands: used, searched for secrets, lost, replaced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray._private.services import get_node_ip_address

from tests.acceptance.commandline import EVENTRAY, ROOT, Done, environment

RAY_UP = yaml.safe_load((ROOT / "cluster" / "deploy" / "ray-up.yaml").read_text())
RAY_JOB = yaml.safe_load((ROOT / "cluster" / "deploy" / "rayjob.yaml").read_text())
TOKEN = "7" * 64
PASSWORD = "never-to-be-seen"
DASHBOARD_PAGES = ("actors?detail=1", "tasks?detail=1", "workers?detail=1", "jobs?detail=1", "runtime_envs?detail=1")


class ByHand:
    """Ray nodes on this machine, each kept by one process of `ray start --block`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = ""
        self.dashboard = ""
        self._nodes: list[subprocess.Popen[bytes]] = []
        (directory / ".ray").mkdir()
        (directory / ".ray" / "auth_token").write_text(TOKEN)

    def environment(self, **variables: str) -> dict[str, str]:
        """That of a user of this cluster: a home with the token, and none of the RAY_* by which tests connect."""
        unseen = "RAY_prestart_worker_first_driver"
        kept = {n: value for n, value in environment().items() if n == unseen or not n.startswith("RAY_")}
        return {**kept, "HOME": str(self.directory), "RAY_TMPDIR": str(self.directory), **variables}

    def start_head(self) -> None:
        port, dashboard, client = free_ports(3)
        self.address, self.dashboard = f"{own_ip()}:{port}", f"http://127.0.0.1:{dashboard}"
        command = RAY_UP["head_start_ray_commands"][1].replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "")
        more = f"--dashboard-port={dashboard} --ray-client-server-port={client}"
        self._start(command.replace("--port=6379", f"--port={port}"), more)

    def start_worker(self) -> None:
        command = RAY_UP["worker_start_ray_commands"][1].replace("$RAY_HEAD_IP:6379", self.address)
        self._start(command, "--dashboard-agent-listen-port=0")

    def _start(self, command: str, more: str) -> None:
        ray = f"{sys.executable} -m ray.scripts.scripts"
        line = f"{command.replace('~/venv/bin/ray', ray)} {more} --num-cpus=4 --block"
        with (self.directory / f"node-{len(self._nodes)}.log").open("wb") as said:
            node = subprocess.Popen(
                ["bash", "-c", line],
                env=self.environment(),
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._nodes.append(node)

    def lose(self) -> None:
        """Kill -9 every process of every node."""
        nodes, self._nodes = self._nodes, []
        children = [child for node in nodes for child in psutil.Process(node.pid).children(recursive=True)]
        for pid in [*(node.pid for node in nodes), *(child.pid for child in children)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for node in nodes:
            node.wait()
        psutil.wait_procs(children, timeout=10)

    def run(self, arguments: list[str], **variables: str) -> Done:
        """Run a command of a user's to its end."""
        done = subprocess.run(
            arguments,
            cwd=ROOT,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def by_hand() -> Iterator[ByHand]:
    """No node yet. Its directory has a short name: sockets are in it."""
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    cluster = ByHand(directory)
    yield cluster
    cluster.lose()
    shutil.rmtree(directory)


def free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def own_ip() -> str:
    return str(get_node_ip_address())  # type: ignore[no-untyped-call]


@pytest.mark.timeout(170)
def test_the_shipped_commands_make_a_cluster_that_may_be_lost_without_losing_anything(
    by_hand: ByHand, postgres_url: str
) -> None:
    url = with_password(postgres_url)

    def eventray(*arguments: str, **variables: str) -> Any:
        done = by_hand.run(
            [*EVENTRAY, *arguments, "--json"],
            **{"EVENTRAY_STORE": url, "RAY_ADDRESS": by_hand.address, "RAY_AUTH_MODE": "token", **variables},
        )
        assert PASSWORD not in done.out + done.err
        if done.exit_code:
            return done
        return json.loads(done.out.splitlines()[-1])

    def driven(seconds: float) -> Any:
        arguments = RAY_JOB["spec"]["entrypoint"].replace("python", sys.executable, 1).split()
        arguments += ["--seconds", str(seconds), "--drivers", "2", "--in-flight", "100"]
        done = by_hand.run(arguments, EVENTRAY_STORE=url, RAY_ADDRESS=by_hand.address, RAY_AUTH_MODE="token")
        assert done.exit_code == 0, done.err
        assert PASSWORD not in done.out + done.err
        return json.loads(done.out.splitlines()[-1])

    by_hand.start_head()
    until_it_answers(by_hand)
    by_hand.start_worker()
    refused = eventray("up", RAY_AUTH_MODE="disabled")
    assert (refused.exit_code, len(refused.err.splitlines())) == (1, 1)
    assert "it refuses this process's token" in refused.err

    began = eventray("up", "--hosts", "2")
    assert (began["joined"], began["ray_begun"], began["hosts"]) == (False, False, 2)
    figures = driven(seconds=1)
    assert figures["failures"] == {}
    assert figures["commands"] == figures["events_stored"] > 0
    before = eventray("status")
    assert len(before["nodes"]) == figures["driver_nodes"] == 2
    assert len({host["node"] for host in before["hosts"]}) == 2
    assert_nowhere(by_hand, PASSWORD)

    by_hand.lose()
    by_hand.start_head()
    until_it_answers(by_hand)
    again = eventray("up")
    assert (again["joined"], again["hosts"], again["store_id"]) == (False, 2, began["store_id"])
    after = eventray("status")
    heads = [{shard["shard"]: shard["head"] for shard in told["shards"]} for told in (before, after)]
    assert heads[0] == heads[1]
    assert all(new["epoch"] > old["epoch"] for old, new in zip(before["shards"], after["shards"], strict=True))
    assert driven(seconds=0.5)["failures"] == {}
    assert eventray("down") == {"ended": True, "ray_ended": False}
    assert {each["behind"] for each in eventray("status", RAY_ADDRESS="local")["subscribers"]} == {0}


def with_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    user, _, place = rest.partition("@")
    return f"{scheme}://{user.partition(':')[0]}:{PASSWORD}@{place}"


def until_it_answers(by_hand: ByHand) -> None:
    """Wait until the head takes drivers."""
    address_file = by_hand.directory / "ray" / "ray_current_cluster"
    until(lambda: address_file.exists() and address_file.read_text() == by_hand.address)


def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "it took too long"
        time.sleep(0.05)


def assert_nowhere(by_hand: ByHand, secret: str) -> None:
    """Look for a secret where others may read: command lines, what Ray's dashboard tells, and all log files."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if secret in line]
    for page in DASHBOARD_PAGES:
        request = urllib.request.Request(
            f"{by_hand.dashboard}/api/v0/{page}", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            told = answer.read().decode()
        assert len(told) > 2
        assert secret not in told, page
    logs = [path for path in (by_hand.directory / "ray").rglob("*") if path.is_file() and path.stat().st_size < 1e8]
    assert len(logs) > 20
    assert [path for path in logs if secret.encode() in path.read_bytes()] == []
