"""A real Prometheus scrapes a runtime under load: its queries have data, its alerts fire when something hangs.

All tests share one runtime and one Prometheus, in the order in which they stand here.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any, NamedTuple

import pytest

from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, PromoteToVip
from cluster import Runtime, SyncRuntime
from cluster.monitoring.panels import DASHBOARDS
from cluster.ray_edge import namespace_of, temp_dir
from cluster.settings import Settings
from cluster.status import RuntimeStatus
from store import open_store
from store.records import Writer
from tests.acceptance.monitored_shop import REFUSE, WAIT, app

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "cluster" / "monitoring"
SETTINGS = Settings(
    metrics_exporter=True,
    metrics_stuck_after_s=2.0,
    metrics_lagging_after_s=1.0,
    host_live_aggregates_max=10,
    query_timeout_s=20,
    close_timeout_s=20,
)
RATE_S = 8
HURRY = 300 / RATE_S
"""By so much all times of the alerts are shorter here, so that one fires after as many scrapes as it would."""


def program(name: str) -> str:
    """Return the path of one of Prometheus' programs; fail where it is not there: nothing of this would be tested."""
    unpacked = Path(sys.prefix, "prometheus", "usr", "bin", name)
    found = shutil.which(name) or (str(unpacked) if unpacked.exists() else None)
    if found is None:
        pytest.fail(f"{name} is not there: `make test` gets it on Debian; else install Prometheus and put it on PATH")
    return found


class Prometheus:
    """A server that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Evaluate an expression now. Fails where it is none."""
        try:
            result: list[dict[str, Any]] = self.ask("query", query=expr)["result"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{expr}: {error.read().decode()}")
        return result

    def firing(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}


class Scene(NamedTuple):
    runtime: SyncRuntime
    prometheus: Prometheus
    url: str
    """Of the exporter."""
    namespace: str
    store_url: str

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def subscriber(self, name: str) -> dict[str, Any]:
        _, text = self.get("/health/processing")
        (found,) = [each for each in json.loads(text)["subscribers"] if each["name"] == name]
        return dict(found)


async def writers_of(url: str) -> dict[str, Writer]:
    store = await open_store(url, create=False)
    try:
        return await store.writers()
    finally:
        await store.close()


def until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.1)
    return found


@contextmanager
def running_prometheus(directory: Path, namespace: str, exporter: str) -> Iterator[Prometheus]:
    """Run it with our config and rules, hurried: a second in the place of ten, and alerts that wait for seconds."""
    config = (MONITORING / "prometheus.yml").read_text()
    config = config.replace("/tmp/ray/*", f"{temp_dir()}/{namespace}*")
    config = re.sub(r"_interval: 10s", "_interval: 1s", config).replace("scrape_timeout: 8s", "scrape_timeout: 1s")
    config += f"""
  - job_name: http
    http_sd_configs: [{{url: "{exporter}/sd"}}]
    relabel_configs: [{{source_labels: [job], regex: ray, action: keep}}]
"""
    (directory / "prometheus.yml").write_text(config)
    rules = (MONITORING / "alerts.yml").read_text()
    rules = re.sub(r"for: (\d+)m", lambda found: f"for: {math.ceil(60 * int(found[1]) / HURRY)}s", rules)
    (directory / "alerts.yml").write_text(rules.replace("[5m]", f"[{RATE_S}s]"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    arguments = [f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [program("prometheus"), *arguments, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}")

    def is_ready() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        try:
            return bool(urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=1).status == 200)
        except OSError:
            return False

    try:
        until(is_ready, 60, "Prometheus is ready")
        yield prometheus
    finally:
        process.terminate()
        process.wait(10)


def load(runtime: SyncRuntime, over: Flag) -> None:
    """Submit mixed commands until it is over: some are refused, some are sent twice."""
    runtime.submit(CreateCustomer(customer_id="c-refused", name=REFUSE, email="a@example.com"))
    for number in itertools.count():
        customer = f"c-{number}"
        results = runtime.submit_many(
            [
                CreateCustomer(customer_id=customer, name="Ada", email="ada@example.com"),
                CreateOrder(order_id=f"o-{number}", customer_id=customer, total_amount=Decimal(7)),
                PromoteToVip(customer_id=customer, reason="loyal"),
                PromoteToVip(customer_id=customer, reason="again"),
            ]
        )
        assert len(results) == 4
        for _ in range(2):
            change = ChangeEmail(customer_id=f"c-{number // 2}", email="b@example.com")  # long forgotten by its host
            runtime.submit(change, command_id=f"change-{number}")
        if over.wait(0.02):
            return


@contextmanager
def loaded(runtime: SyncRuntime) -> Iterator[None]:
    over = Flag()
    thread = Thread(target=load, args=(runtime, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


@pytest.fixture(scope="module")
def scene(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("monitoring")
    url = f"sqlite:///{directory}/shop.db"
    with SyncRuntime.open(url, app=app, address=ray_address, settings=SETTINGS) as runtime:

        def served() -> RuntimeStatus | None:
            status = runtime.status()
            return status if status.metrics else None

        status: RuntimeStatus = until(served, 60, "the exporter serves")
        namespace = namespace_of(status.store_id)
        with running_prometheus(directory, namespace, status.metrics) as prometheus:
            yield Scene(runtime, prometheus, status.metrics, namespace, url)


def queries() -> Iterator[tuple[str, str]]:
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard.panels:
            for query in panel.queries:
                expr = query.expr.replace("$instance", ".*").replace("$__rate_interval", f"{RATE_S}s")
                yield f"{name}: {panel.title}", expr


@pytest.mark.timeout(120)
def test_under_load_every_query_of_every_panel_has_data(scene: Scene) -> None:
    with loaded(scene.runtime):
        missing = list(queries())
        deadline_s = time.monotonic() + 60
        while missing and time.monotonic() < deadline_s:
            time.sleep(0.5)
            missing = [(title, expr) for title, expr in missing if not _has_data(scene.prometheus.query(expr))]
        assert missing == []
        assert scene.prometheus.firing() <= {"EventrayParkedStreams"}
    outcomes = scene.prometheus.query("sum by (outcome) (eventray_commands_total)")
    found = {each["metric"]["outcome"]: float(each["value"][1]) for each in outcomes}
    assert found.keys() == {"accepted", "duplicate", "rejected"}
    assert found["accepted"] > 3 * found["rejected"] > 0


def _has_data(result: list[dict[str, Any]]) -> bool:
    return any(each["value"][1] not in ("NaN", "+Inf", "-Inf") for each in result)


def test_prometheus_finds_the_exporter_beside_rays_own_metrics(scene: Scene) -> None:
    targets = scene.prometheus.ask("targets")["activeTargets"]
    found = {target["labels"]["job"]: (target["health"], target["lastError"]) for target in targets}
    assert found == {"eventray": ("up", ""), "ray": ("up", "")}
    assert scene.prometheus.query("ray_node_cpu_count") or scene.prometheus.query('{job="ray"}')
    parked = 'eventray_parked_keys{subscriber="greeting"} == 1'
    (state,) = until(lambda: scene.prometheus.query(parked), 20, "the parked key is scraped")
    assert state["metric"]["namespace"] == scene.namespace


def test_the_rules_and_the_config_pass_promtools_checks_and_each_alert_fires_when_it_should() -> None:
    check = [program("promtool"), "check"]
    subprocess.run([*check, "config", MONITORING / "prometheus.yml"], check=True, capture_output=True)
    subprocess.run([*check, "rules", MONITORING / "alerts.yml"], check=True, capture_output=True)
    tests = ROOT / "tests" / "fixtures" / "alerts_test.yml"
    done = subprocess.run([program("promtool"), "test", "rules", tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_can_be_evaluated_on_what_is_scraped(scene: Scene) -> None:
    groups = scene.prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == (MONITORING / "alerts.yml").read_text().count("- alert:")
    assert {rule["health"] for rule in rules} == {"ok"}


@pytest.mark.timeout(90)
def test_a_projection_that_hangs_is_stuck_never_at_lag_zero_and_wakes_somebody(scene: Scene, tmp_path: Path) -> None:
    assert scene.get("/health/processing")[0] == 503  # for the parked key
    assert scene.subscriber("names")["state"] == "ok"
    flag = tmp_path / "flag"
    flag.touch()
    scene.runtime.submit(CreateCustomer(customer_id="c-waits", name=f"{WAIT}{flag}", email="a@example.com"))
    stuck = until(lambda: scene.subscriber("names")["state"] == "stuck" and scene.subscriber("names"), 20, "stuck")
    assert stuck["lag_events"] >= 1
    assert stuck["lag_seconds"] > 0
    assert "it stands at" in stuck["why"]
    until(lambda: "EventrayProjectionStuck" in scene.prometheus.firing(), 15, "the alert fires")
    assert float(scene.prometheus.query('eventray_lag_seconds{subscriber="names"}')[0]["value"][1]) > 0
    flag.unlink()
    until(lambda: scene.subscriber("names")["state"] == "ok", 20, "it goes on")
    until(lambda: "EventrayProjectionStuck" not in scene.prometheus.firing(), 15, "the alert is over")


@pytest.mark.timeout(90)
def test_a_host_that_hangs_is_down_in_a_scrape_that_takes_its_time_and_no_longer(scene: Scene) -> None:
    (host,) = scene.runtime.status().hosts
    pid = asyncio.run(writers_of(scene.store_url))[str(host.name)].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        down = 'eventray_process_up{process="host-1"} 0.0'
        for _ in range(2):  # the first may be answered by a scrape that began before the host was stopped
            began_s = time.monotonic()
            status, text = scene.get("/metrics")
            assert status == 200
            assert time.monotonic() - began_s < 6
            if down in text:
                break
        assert down in text
        assert 'eventray_process_up{process="projections-1"} 1.0' in text
        assert scene.get("/health/ready")[0] == 503
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    until(lambda: scene.get("/health/ready")[0] == 200, 30, "the host is replaced")
    assert 'eventray_process_up{process="host-1"} 1.0' in scene.get("/metrics")[1]


@pytest.mark.timeout(120)
async def test_a_second_runtime_with_the_same_port_serves_and_says_what_is_wrong(
    scene: Scene, tmp_path: Path, ray_address: str
) -> None:
    port = int(scene.url.rpartition(":")[2])
    settings = SETTINGS.model_copy(update={"metrics_port": port})
    async with Runtime.open(f"sqlite:///{tmp_path}/other.db", address=ray_address, settings=settings) as runtime:
        customer = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")
        assert (await runtime.submit(customer)).version == 1
        async with asyncio.timeout(60):
            while not (failure := _exporter_failure(await runtime.status())):
                await asyncio.sleep(0.1)
        assert f"127.0.0.1:{port} is taken by another process: set EVENTRAY_METRICS_PORT" in failure


def _exporter_failure(status: RuntimeStatus) -> str:
    return status.exporter.failure if status.exporter else ""
