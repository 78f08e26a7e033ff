"""Which host gets which shards, and when a process counts as lost."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.health import HostHealth
from cluster.placement import Polls, is_well, place
from cluster.settings import Settings

WELL = HostHealth({}, {}, 0, 0, 0.0, 0.0, 0, 0, 0)

host_lists = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1)


class TestPlace:
    @given(st.integers(1, 64), host_lists, host_lists)
    def test_each_shard_has_a_host_and_the_counts_are_even(
        self, shards: int, before: list[str], now: list[str]
    ) -> None:
        placement = place(shards, now, place(shards, before, {}))
        counts = Counter(placement.values())
        assert sorted(placement) == list(range(shards))
        assert set(counts) <= set(now)
        assert max(counts[host] for host in now) - min(counts[host] for host in now) <= 1

    @given(st.integers(1, 64), host_lists, host_lists)
    def test_no_shard_moves_without_need(self, shards: int, before: list[str], now: list[str]) -> None:
        owners = place(shards, before, {})
        moved = [shard for shard, host in place(shards, now, owners).items() if owners[shard] != host]
        orphans = [shard for shard, host in owners.items() if host not in now]
        counts = Counter(owners.values())
        most = sorted((counts[host] for host in now), reverse=True)
        least, odd = divmod(shards, len(now))
        surplus = sum(max(0, count - least - (index < odd)) for index, count in enumerate(most))
        assert len(moved) == len(orphans) + surplus

    def test_a_replacement_gets_what_the_lost_host_had(self) -> None:
        owners = place(64, ["a", "b", "c"], {})
        placement = place(64, ["a", "c", "d"], owners)
        assert {shard for shard, host in placement.items() if host == "d"} == {
            shard for shard, host in owners.items() if host == "b"
        }

    def test_without_hosts_nothing_is_placed(self) -> None:
        assert place(8, [], {0: "a"}) == {}


class TestWellness:
    settings = Settings(loop_age_max_s=2, oldest_pending_max_s=10)

    def test_an_idle_host_is_well(self) -> None:
        assert is_well(WELL, self.settings)

    def test_a_host_whose_loop_stands_is_not(self) -> None:
        assert not is_well(WELL._replace(loop_age_s=2.1), self.settings)

    def test_a_host_that_holds_a_command_for_too_long_is_not(self) -> None:
        assert not is_well(WELL._replace(oldest_pending_s=10.1), self.settings)


class TestPolls:
    """By a clock of its own: each poll is asked at `next_s`, and ends half a second later."""

    def polls(self, *answers: bool) -> Polls:
        polls = Polls(Settings(poll_interval_s=1, poll_timeout_s=0.5, polls_missed_max=3), 100.0)
        for well in answers:
            polls.asked(polls.next_s)
            polls.answered(well)
        return polls

    def test_the_first_poll_is_asked_one_interval_after_the_start(self) -> None:
        assert self.polls().next_s == 101.0

    def test_three_missed_in_a_row_lose_it(self) -> None:
        assert not self.polls(False, False).lost
        assert self.polls(False, False, False).lost

    def test_an_answer_between_begins_the_count_anew(self) -> None:
        assert not self.polls(False, False, True, False, False).lost

    def test_before_the_last_one_it_is_doubtful(self) -> None:
        assert [self.polls(*[False] * missed).doubtful for missed in range(4)] == [False, False, True, False]

    def test_what_stops_after_an_answer_is_lost_within_three_and_a_half_seconds(self) -> None:
        polls = self.polls(True)
        answered_s = polls.next_s - 1
        while not polls.lost:
            asked_s = polls.next_s
            polls.asked(asked_s)
            polls.answered(False)
        assert asked_s + 0.5 - answered_s == 3.5
