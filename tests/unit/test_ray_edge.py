"""What Ray says of actors that can't be reached, and what is made of it: never that a command has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo  # type: ignore[attr-defined]
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

from actors.wire import PIECE_SIZE_MAX_BYTES, pieces_of
from cluster import Settings, local_ray, ray_session, scaling
from cluster.ray_edge import NoCoordinator, RayTransport, ask
from cluster.ray_probe import RayUnavailable
from cluster.transport import HostGone
from store import open_store
from store.errors import StoreHeld, StoreUnavailable
from tests.virtual_time import run

ACTOR_ID = bytes(16)


def died(preempted: bool = False) -> ActorDiedError:
    info = NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED) if preempted else None
    error = ActorDiedError(ActorDiedErrorContext(actor_id=ACTOR_ID, node_death_info=info))
    assert error.preempted is preempted
    return error


def unavailable() -> ActorUnavailableError:
    return ActorUnavailableError("the connection was reset", ACTOR_ID)


def raised_in_the_method(cause: Exception | None = None) -> RayTaskError:
    """As it is raised where it was asked for: of the class of its cause too."""
    raised = RayTaskError("status", "", cause or StoreHeld("somebody else"))  # type: ignore[no-untyped-call]
    as_raised: RayTaskError = raised.as_instanceof_cause()  # type: ignore[no-untyped-call]
    return as_raised


class Actor:
    """An actor's handle, every method of which fails by a script, and then answers."""

    def __init__(self, *script: RayError) -> None:
        self.script = list(script)
        self.calls = 0
        self.arguments: tuple[object, ...] = ()

    def __getattr__(self, _name: str) -> Any:
        return SimpleNamespace(remote=self._called)

    async def _called(self, *arguments: object) -> str:
        self.calls += 1
        self.arguments = arguments
        if self.script:
            raise self.script.pop(0)
        return "answer"


@pytest.mark.parametrize("failure", [unavailable, died, lambda: died(preempted=True)])
def test_whatever_befalls_a_host_its_call_may_or_may_not_have_been_executed(failure: Callable[[], RayError]) -> None:
    transport = RayTransport("namespace")
    transport._handles["host-1"] = Actor(failure())
    with pytest.raises(HostGone):
        run(transport.call("host-1", b""))
    assert "host-1" not in transport._handles, "it is looked up anew, should that name ever answer again"


def test_what_a_host_raises_itself_is_told_as_it_is() -> None:
    transport = RayTransport("namespace")
    transport._handles["host-1"] = Actor(raised_in_the_method())
    with pytest.raises(StoreHeld):
        run(transport.call("host-1", b""))
    assert "host-1" in transport._handles


def test_a_large_call_goes_in_pieces_that_ray_sends_along() -> None:
    transport, host = RayTransport("namespace"), Actor()
    transport._handles["host-1"] = host
    call = bytes(3 * PIECE_SIZE_MAX_BYTES)
    run(transport.call("host-1", call))
    assert host.arguments == tuple(pieces_of(call))
    assert len(host.arguments) == 3


def test_a_coordinator_that_was_preempted_or_is_away_comes_back() -> None:
    coordinator = Actor(died(preempted=True), unavailable(), died(preempted=True))
    assert run(ask(coordinator, 10, "status")) == "answer"
    assert coordinator.calls == 4


def test_one_that_could_not_reach_an_actor_itself_is_asked_again() -> None:
    assert run(ask(coordinator := Actor(raised_in_the_method(unavailable())), 10, "status")) == "answer"
    assert coordinator.calls == 2


def test_one_that_died_for_good_is_told_at_once_and_one_that_stays_away_in_time() -> None:
    with pytest.raises(NoCoordinator):
        run(ask(coordinator := Actor(died()), 10, "status"))
    assert coordinator.calls == 1
    with pytest.raises(NoCoordinator):
        run(ask(coordinator := Actor(*[unavailable()] * 1000), 10, "status"))
    assert 40 < coordinator.calls < 60


def test_one_that_cannot_begin_again_before_the_store_is_there_is_waited_for() -> None:
    away = raised_in_the_method(StoreUnavailable("the server is restarted", True))
    assert run(ask(coordinator := Actor(unavailable(), away, away), 10, "scale", 3)) == "answer"
    assert (coordinator.calls, coordinator.arguments) == (4, (3,))
    with pytest.raises(StoreUnavailable):
        run(ask(coordinator := Actor(*[away] * 1000), 10, "status"))
    assert 40 < coordinator.calls < 60


FINAL = [StoreHeld("somebody else"), StoreUnavailable("the disk is full", False), TypeError("it takes a number")]


@pytest.mark.parametrize("cause", FINAL)
def test_what_does_not_pass_is_told_at_once(cause: Exception) -> None:
    with pytest.raises(type(cause)):
        run(ask(coordinator := Actor(raised_in_the_method(cause)), 10, "status"))
    assert coordinator.calls == 1


def test_where_no_ray_runs_a_runtime_to_scale_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "known_address", lambda address: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    url = f"sqlite:///{tmp_path}/s.db"

    async def rebalanced() -> None:
        await (await open_store(url, 4)).close()
        await scaling.rebalance(url, None)

    with pytest.raises(scaling.NoRuntime) as told:
        asyncio.run(rebalanced())
    remedy = "Bring one up (`eventray up`), or give the --address of its Ray."
    assert str(told.value) == f"No runtime on {url} was found: no Ray runs on this machine. {remedy}"


class TestWhereNoTokenCanBeKept:
    @pytest.fixture(autouse=True)
    def _no_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setattr(local_ray, "TOKEN", tmp_path / "file" / ".ray" / "auth_token")

    def test_a_ray_that_is_named_is_joined(self) -> None:
        assert local_ray.find_or_begin("10.0.0.1:6379", Settings()) == ("10.0.0.1:6379", None)

    def test_none_is_begun_and_the_directory_is_named(self) -> None:
        with pytest.raises(RayUnavailable, match=r"file/\.ray \(Not a directory\): have HOME name"):
            local_ray.find_or_begin("local", Settings())
