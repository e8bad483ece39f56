"""Policies: their JSON form, what they refuse, and what they choose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_server.errors import InvalidArgumentError
from serving_server.lifecycle import All, Latest, Policy, Specific, State, choose
from serving_server.lifecycle.crashes import CrashHistory, CrashPolicy


def test_states_have_the_numbers_of_the_wire() -> None:
    assert [(state.name, state.value) for state in State] == [
        ("UNKNOWN", 0),
        ("START", 10),
        ("LOADING", 20),
        ("AVAILABLE", 30),
        ("UNLOADING", 40),
        ("END", 50),
    ]


@pytest.mark.parametrize(
    ("policy", "data"),
    [
        (Latest(), {"latest": {"num_versions": 1}}),
        (Latest(3), {"latest": {"num_versions": 3}}),
        (Specific([7, 2]), {"specific": {"versions": [2, 7]}}),
        (Specific(), {"specific": {"versions": []}}),
        (All(), {"all": {}}),
    ],
)
def test_json_round_trip(policy: Policy, data: dict[str, object]) -> None:
    assert policy.to_json() == data
    assert Policy.from_json(data) == policy


@pytest.mark.parametrize(
    ("data", "policy"),
    [
        ({"latest": {}}, Latest(1)),
        ({"latest": {"num_versions": 0}}, Latest(1)),
        ({"specific": {}}, Specific()),
        ({"specific": {"versions": [3, 3, 1]}}, Specific([1, 3])),
    ],
)
def test_unset_fields_mean_what_they_mean_in_tf_serving(data: object, policy: Policy) -> None:
    assert Policy.from_json(data) == policy


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (None, "exactly one of"),
        ({}, "exactly one of"),
        ({"latest": {}, "all": {}}, "exactly one of"),
        ({"newest": {}}, "newest"),
        ({"latest": 2}, "latest"),
        ({"latest": {"versions": 2}}, "num_versions"),
        ({"latest": {"num_versions": -1}}, "-1"),
        ({"latest": {"num_versions": 2**32}}, "4294967296"),
        ({"latest": {"num_versions": True}}, "True"),
        ({"latest": {"num_versions": "2"}}, "'2'"),
        ({"specific": {"versions": 3}}, "list"),
        ({"specific": {"versions": [1, "2"]}}, "'2'"),
        ({"specific": {"versions": [1, -2]}}, "-2"),
        ({"specific": {"versions": [2**63]}}, "9223372036854775808"),
        ({"all": {"x": 1}}, "'x'"),
        ({1: {}}, "1"),
        ({"all": []}, "all"),
    ],
)
def test_nonsense_is_refused_by_name(data: object, names: str) -> None:
    with pytest.raises(InvalidArgumentError, match=names):
        Policy.from_json(data)


@pytest.mark.parametrize(
    ("policy", "held", "ordinary"),
    [
        (Latest(), set(), {5}),
        (Latest(2), set(), {3, 5}),
        (Latest(9), set(), {1, 3, 5}),
        (Latest(), {5}, {3}),
        (Latest(), {1}, {5}),
        (Specific([1, 4]), set(), {1}),
        (Specific([5]), {5}, set()),
        (Specific(), set(), set()),
        (All(), {3}, {1, 5}),
    ],
)
def test_choose(policy: Policy, held: set[int], ordinary: set[int]) -> None:
    assert choose({1, 3, 5}, policy, held) == (frozenset(ordinary), frozenset(held))


@given(
    versions=st.sets(st.integers(0, 30)),
    held=st.sets(st.integers(0, 30)),
    policy=st.one_of(
        st.builds(Latest, st.integers(0, 5)),
        st.builds(Specific, st.sets(st.integers(0, 30))),
        st.just(All()),
    ),
)
def test_held_versions_never_change_what_the_policy_chooses(versions: set[int], held: set[int], policy: Policy) -> None:
    ordinary, kept = choose(versions, policy, held)
    assert kept == held & versions
    assert ordinary == choose(versions - held, policy)[0]
    assert not ordinary & kept


def test_restarts_back_off_and_end() -> None:
    history = CrashHistory(CrashPolicy())
    assert [history.add(now, now) for now in (0.0, 0.5, 2.0, 5.0, 10.0)] == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert history.add(20.0, 19.0) is None
    assert len(history) == 6


def test_crashes_that_are_far_apart_never_end_a_version_and_the_delay_is_capped() -> None:
    history = CrashHistory(CrashPolicy())
    delays = [history.add(now * 40.0, None) for now in range(2000)]
    assert delays[:8] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert set(delays[8:]) == {30.0}


def test_a_window_without_a_crash_clears_the_history() -> None:
    history = CrashHistory(CrashPolicy())
    history.add(0.0, 0.0)
    assert history.add(1.0, 0.5) == 1.0
    assert history.add(62.0, 2.0) == 0.0
