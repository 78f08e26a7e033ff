"""A Ray on this machine that stays when this process has ended: `eventray up` begins it where no Ray is to be joined.

One process of `ray start --block` keeps it; ending that one ends all of it. Which process that is, is kept in this Ray
itself, so that `eventray down` finds it. Not here: connecting (`ray_session.py`).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
from ray._common.utils import get_default_ray_temp_dir
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import get_node_ip_address
from ray._private.utils import read_ray_address
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.experimental.internal_kv import _internal_kv_get

from cluster.ray_probe import ANSWER_MAX_S, RayUnavailable
from cluster.ray_session import NEW, known_address, search_path_for_workers
from cluster.settings import Settings
from store.process import end, machine, started, this_process
from store.records import Writer

TOKEN = Path.home() / ".ray" / "auth_token"
KEY, KEY_SPACE = b"local-ray", b"eventray"
STARTED_WITHIN_S = 60.0
ENDED_WITHIN_S = 20.0
PAUSE_S = 0.1


def find_or_begin(address: str | None, settings: Settings) -> tuple[str, Writer | None]:
    """Return the address of the Ray that is to be joined, and the process that keeps it if it was begun here and now.

    Blocks for some seconds. Its token is in ~/.ray/auth_token, drawn where there is none. Raises RayUnavailable.
    """
    if (known := known_address(address)) is not None:
        return known, None
    with _alone():
        if (known := known_address(address)) is not None:
            return known, None
        enable_token_auth_by_default()
        ensure_token_if_auth_enabled(None, create_token_if_missing=True)
        with suppress(FileNotFoundError):
            TOKEN.chmod(0o600)  # Ray writes it for everybody to read
        # Where its defaults are taken Ray ends, or its dashboard shows no logs.
        port, client_port, agent_port = _free_ports(3)
        said = Path(_temp_dir(), "eventray-ray-start.log")
        said.parent.mkdir(parents=True, exist_ok=True)
        with search_path_for_workers(), said.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", *_arguments(port, client_port, agent_port, settings)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        begun = f"{_own_ip()}:{port}"
        keeper = Writer(machine(), process.pid, started(process.pid) or "")
        try:
            _wait_until_it_runs(begun, process, said)
            remember(begun, keeper, this_process())
        except BaseException:
            stop(keeper)
            raise
        return begun, keeper


def remember(address: str, keeper: Writer, beginner: Writer | None = None) -> None:
    """Keep in the Ray at an address which process keeps it; `beginner`: who is still about to bring a runtime up on it.

    So `down` ends it also where that one is killed before there is any. Blocks. Raises RayUnavailable.
    """
    messages: Any = gcs_service_pb2  # generated, without types
    value = json.dumps([keeper, beginner]).encode()
    request = messages.InternalKVPutRequest(key=KEY, value=value, overwrite=True, namespace=KEY_SPACE)
    try:
        with init_grpc_channel(address) as channel:
            control_store = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)  # type: ignore[no-untyped-call]
            control_store.InternalKVPut(request, timeout=ANSWER_MAX_S, wait_for_ready=True)
    except grpc.RpcError as error:
        raise RayUnavailable(address, f"which process keeps it can't be kept: {error.code().name}") from error


def keeper_of_this_ray() -> Writer | None:
    """Return the process that keeps the Ray that this process is connected to.

    None if it was begun otherwise, or whoever began it is still about to bring a runtime up.
    """
    found: bytes | None = _internal_kv_get(KEY, namespace=KEY_SPACE)
    if found is None:
        return None
    keeper, beginner = json.loads(found)
    return None if beginner is not None and _runs_here(Writer(*beginner)) else Writer(*keeper)


def stop(keeper: Writer) -> None:
    """End the Ray that this process keeps, if it runs on this machine; return once it has ended. Blocks."""
    if not _runs_here(keeper):
        return
    os.kill(keeper.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + ENDED_WITHIN_S
    while started(keeper.pid) == keeper.started:
        if time.monotonic() > deadline_s:
            end(keeper)  # what it kept notices, and ends by itself
            return
        time.sleep(PAUSE_S)


def _runs_here(process: Writer) -> bool:
    return process.machine == machine() and started(process.pid) == process.started


def _arguments(port: int, client_port: int, agent_port: int, settings: Settings) -> list[str]:
    return [
        "start",
        "--head",
        f"--port={port}",
        f"--ray-client-server-port={client_port}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--include-dashboard={str(settings.include_dashboard).lower()}",
        "--dashboard-host=127.0.0.1",
        "--disable-usage-stats",
        "--block",
    ]


def _temp_dir() -> str:
    """Where Ray keeps its sessions."""
    directory: str = get_default_ray_temp_dir()  # type: ignore[no-untyped-call]
    return directory


def _own_ip() -> str:
    """The address under which `ray start` announces itself."""
    address: str = get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def _wait_until_it_runs(address: str, process: subprocess.Popen[bytes], said: Path) -> None:
    """Wait until `ray start` has left its address where it does so last; a driver that came before would wait long."""
    deadline_s = time.monotonic() + STARTED_WITHIN_S
    while read_ray_address() != address:
        if process.poll() is not None:
            lines = said.read_text(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
            raise RayUnavailable(NEW, f"`ray start` has failed: {last}")
        if time.monotonic() > deadline_s:
            process.terminate()
            raise RayUnavailable(NEW, f"`ray start` was not done within {STARTED_WITHIN_S:g} s; see {said}")
        time.sleep(PAUSE_S)


@contextmanager
def _alone() -> Iterator[None]:
    """Let one process of this user at a time look for a Ray and begin one."""
    try:
        TOKEN.parent.mkdir(exist_ok=True)
        lock = TOKEN.with_name("eventray.lock").open("w")
    except OSError as error:
        reason = f"its token can't be kept in {TOKEN.parent} ({error.strerror}): have HOME name a directory to write to"
        raise RayUnavailable(NEW, reason) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
