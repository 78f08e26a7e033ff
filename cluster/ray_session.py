"""Ray itself: joining the one that is there, or starting one on this machine that ends with us.

Which one: the one that this process is connected to; else the one that `address` or RAY_ADDRESS names; else the one
that `ray start` began on this machine; else a new one ("local" asks for that). Not here: actors.
"""

from __future__ import annotations

import logging
import os
import site
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import ray
from ray._private.services import find_bootstrap_address, find_gcs_addresses, get_webui_url_from_internal_kv
from ray.exceptions import RayError

from cluster.ray_probe import RayUnavailable, check_cluster
from cluster.settings import Settings
from cluster.undoing import begun

NEW = "local"

_lock = threading.Lock()
_users = 0
"""How many runtimes of this process use the connection that the first of them made."""


def connect(address: str | None, settings: Settings) -> bool:
    """Connect this process to Ray; return whether `disconnect` is due: not where somebody else had connected it.

    Blocks for some seconds. Raises RayUnavailable.
    """
    global _users
    with _lock:
        if ray.is_initialized():
            _users += bool(_users)
            return _users > 0
        address = known_address(address) or NEW
        if address != NEW:
            check_cluster(address)
        try:
            _init(address, settings)
        except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
            raise RayUnavailable(address, _in_one_line(error)) from error
        _users = 1
        return True


def disconnect() -> None:
    """Say that one runtime less uses the Ray that this process connected to: after the last, let go of it.

    One that was started here ends then. Blocks for a second or two.
    """
    global _users
    with _lock:
        _users -= 1
        if not _users:
            ray.shutdown()


async def connected(address: str | None, settings: Settings, ending: AsyncExitStack) -> None:
    """Connect to Ray, and see to it that `ending` lets go of it; also if that is cancelled on the way."""

    def let_go(due: bool) -> None:
        if due:
            disconnect()

    await begun(partial(connect, address, settings), let_go, ending)


def joined_address() -> str:
    """Return HOST:PORT of the Ray that this process is connected to, however it was named."""
    address: str = ray.get_runtime_context().gcs_address
    return address


def dashboard_url() -> str | None:
    """Return where the dashboard of the Ray that this process is connected to is; None: it has none. Blocks."""
    address: str | None = get_webui_url_from_internal_kv()  # type: ignore[no-untyped-call]
    return f"http://{address}" if address else None


def known_address(address: str | None) -> str | None:
    """Return where the Ray to join is, as the module says; None: there is none, a new one is to be started."""
    found = address or os.environ.get("RAY_ADDRESS") or _running_here()
    return None if found == NEW else found


def _init(address: str, settings: Settings) -> None:
    if address != NEW:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        return
    with search_path_for_workers():
        ray.init(
            NEW,
            include_dashboard=settings.include_dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def _in_one_line(error: BaseException) -> str:
    """What Ray says, with what it keeps for itself: why a machine can't be a driver's is in the cause alone."""
    reasons = [" ".join(str(each).split()) for each in (error, error.__cause__) if each is not None]
    return ": ".join(filter(None, reasons))


def _running_here() -> str | None:
    """Return "auto" if `ray start` has begun a Ray on this machine that still runs."""
    address = find_bootstrap_address(None)
    return "auto" if address is not None and address in find_gcs_addresses() else None  # type: ignore[no-untyped-call]


@contextmanager
def search_path_for_workers() -> Iterator[None]:
    """Let the workers of a Ray that is started now import what this process can, wherever it was found.

    They inherit PYTHONPATH. (Ray itself tells them only the script's and the working directory.)
    """
    before = os.environ.get("PYTHONPATH")
    of_python = {*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()}
    of_python |= {str(Path(path, "lib-dynload")) for path in of_python}
    ours = [str(Path(path).resolve()) for path in sys.path if path not in of_python and Path(path).is_dir()]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*ours, *filter(None, (before or "").split(os.pathsep))]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
