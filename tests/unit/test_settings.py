"""The settings: defaults, the environment, bounds."""

from __future__ import annotations

import pickle

import pytest
from pydantic import ValidationError

from cluster.limits import ClientLimits
from cluster.settings import Settings, read_settings
from projections.progress import SubscriberLimits
from projections.relay import RelayLimits
from store.errors import InvalidValue


def test_the_defaults_are_valid_and_reach_hosts_and_clients() -> None:
    settings = Settings(host_pending_commands_max=7, client_in_flight_max=8, command_timeout_s=9)
    assert settings.host_limits().pending_commands_max == 7
    assert settings.client_limits().in_flight_max == 8
    assert settings.client_limits().deadline_s == 9


def test_the_bounds_of_what_follows_the_log_are_settings() -> None:
    settings = Settings(
        projection_batch_size_max=3,
        projection_events_held_max=4,
        process_manager_commands_max=5,
        process_manager_resting_max=6,
    )
    subscribers, relay = settings.subscriber_limits(), settings.relay_limits()
    assert (subscribers.batch_size_max, subscribers.buffer_size_max) == (3, 4)
    assert (relay.under_way_max, relay.resting_max) == (5, 6)
    assert (Settings().subscriber_limits(), Settings().relay_limits()) == (SubscriberLimits(), RelayLimits())


def test_detection_and_replacement_fit_into_five_seconds() -> None:
    settings = Settings()
    worst_s = settings.polls_missed_max * settings.poll_interval_s + settings.poll_timeout_s
    assert worst_s <= 3.5
    assert (settings.polls_missed_max, settings.poll_interval_s) == (3, 1.0)


def test_a_command_may_take_30_s_where_nobody_says_otherwise() -> None:
    assert Settings().client_limits().deadline_s == ClientLimits().deadline_s == 30.0


def test_the_environment_is_read_and_arguments_go_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTRAY_POLL_INTERVAL_S", "0.75")
    assert read_settings().poll_interval_s == 0.75
    assert read_settings(poll_interval_s=0.6).poll_interval_s == 0.6


def test_a_bad_variable_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTRAY_HOST_CPUS", "many")
    with pytest.raises(InvalidValue, match="EVENTRAY_HOST_CPUS = 'many'"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("poll_interval_s", 0), ("client_in_flight_max", 0), ("beat_interval_s", 3), ("poll_timeout_s", float("nan"))],
)
def test_values_out_of_bounds_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidValue, match=name):
        read_settings(**{name: value})


def test_a_poll_may_not_outlast_the_interval() -> None:
    with pytest.raises(InvalidValue, match="at most poll_interval_s"):
        read_settings(poll_interval_s=0.2, poll_timeout_s=0.3)


def test_settings_are_a_frozen_value_that_crosses_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(poll_interval_s=0.9)
    packed = pickle.dumps(settings)
    monkeypatch.setenv("EVENTRAY_POLL_INTERVAL_S", "0.8")
    assert pickle.loads(packed) == settings
    with pytest.raises(ValidationError):
        settings.poll_interval_s = 1
