"""What a key may do: patterns, scopes, networks, state and expiry."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import policy
from keys.context import KeyContext
from keys.policy import Denied

NOW = 1_800_000_000.0
KEY = KeyContext(key_id="k", key_name="ci", secret_id="s", organization_id="o", organization="acme")

# pattern, a name it covers, a name it does not
PATTERNS = [
    ("gemini-2.5-flash", "gemini-2.5-flash", "gemini-2.5-flash-lite"),
    ("gemini-2.5-flash", "gemini-2.5-flash", "Gemini-2.5-flash"),
    ("gemini-*", "gemini-2.5-pro", "my-gemini-2.5"),
    ("gemini-*", "gemini-", "gemini"),
    ("*-flash", "gemini-2.5-flash", "gemini-2.5-flash-lite"),
    ("*flash*", "a-flash-b", "a-flush-b"),
    ("a*b*c", "a-b-b-c", "a-c-b"),
    ("a*a", "aa", "a"),
    ("*ab*ab", "abab", "ab"),
    ("a**c", "abc", "ab"),
    ("gemini-2.5*", "gemini-2.5-pro", "gemini-2x5-pro"),
    ("[a-z]+", "[a-z]+", "abc"),
    ("a?c", "a?c", "abc"),
    ("team/x-*", "team/x-1", "team/y-1"),
    ("*", "", "never"),
]


@pytest.mark.parametrize(("pattern", "covered", "other"), PATTERNS)
def test_a_pattern_covers_its_names_and_no_others(pattern: str, covered: str, other: str) -> None:
    assert policy.matches(pattern, covered)
    assert policy.matches(pattern, other) is (pattern == "*")


@given(st.text("ab*.", max_size=8), st.text("ab.\n", max_size=12))
def test_a_star_means_what_it_means_in_a_regular_expression(pattern: str, name: str) -> None:
    expression = ".*".join(re.escape(piece) for piece in pattern.split("*"))
    assert policy.matches(pattern, name) is (re.fullmatch(expression, name, re.DOTALL) is not None)


@given(
    st.lists(st.text("ab*", max_size=4), max_size=3),
    st.lists(st.text("ab*", max_size=4), max_size=3),
    st.text("ab", max_size=5),
)
def test_a_model_is_allowed_when_a_pattern_allows_it_and_none_denies_it(
    allowed: list[str], denied: list[str], name: str
) -> None:
    key = replace(KEY, allowed_models=tuple(allowed), denied_models=tuple(denied))
    expected = any(policy.matches(each, name) for each in allowed) and not any(
        policy.matches(each, name) for each in denied
    )
    assert policy.allows_model(key, name) is expected


def test_a_hostile_pattern_and_name_take_no_time_to_speak_of() -> None:
    assert not policy.matches("*a" * 100 + "b", "a" * 20_000)  # a backtracking matcher would not come back


def test_no_list_allows_every_model_and_an_empty_one_none() -> None:
    assert policy.allows_model(KEY, "anything")
    assert not policy.allows_model(replace(KEY, allowed_models=()), "anything")


def test_a_denied_pattern_beats_an_allowed_one() -> None:
    key = replace(KEY, allowed_models=("gemini-*",), denied_models=("*-pro",))
    assert policy.allows_model(key, "gemini-2.5-flash")
    assert not policy.allows_model(key, "gemini-2.5-pro")
    assert not policy.allows_model(replace(KEY, denied_models=("gemini-2.5-pro",)), "gemini-2.5-pro")


def test_the_refusal_of_a_model_names_it() -> None:
    policy.check_model(KEY, "gpt-4o")
    with pytest.raises(Denied) as refused:
        policy.check_model(replace(KEY, allowed_models=("gemini-*",)), "gpt-4o")
    assert refused.value.message == "Model 'gpt-4o' is not allowed for this API key."
    assert refused.value.reason == "model"


@pytest.mark.parametrize("action", policy.ACTIONS)
def test_a_scope_allows_its_action_and_refuses_the_others(action: str) -> None:
    policy.check_action(KEY, action)
    policy.check_action(replace(KEY, scopes=frozenset({action})), action)
    with pytest.raises(Denied, match=action) as refused:
        policy.check_action(replace(KEY, scopes=frozenset(policy.ACTIONS) - {action}), action)
    assert refused.value.reason == "scope"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"state": "disabled"}, "disabled"),
        ({"state": "revoked"}, "revoked"),
        ({"state": "suspended"}, "suspended"),
        ({"expires_at": NOW + 1}, None),
        ({"expires_at": NOW}, "expired"),
        ({"secret_until": NOW + 1}, None),
        ({"secret_until": NOW - 1}, "expired"),
        ({"state": "disabled", "expires_at": NOW}, "disabled"),
    ],
)
def test_state_and_expiry_decide_whether_a_key_may_be_used(change: dict[str, object], reason: str | None) -> None:
    key = replace(KEY, **change)  # type: ignore[arg-type]
    if reason is None:
        policy.check_key(key, "127.0.0.1", NOW)
        return
    with pytest.raises(Denied) as refused:
        policy.check_key(key, "127.0.0.1", NOW)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("networks", "address", "allowed"),
    [
        (None, "203.0.113.9", True),
        (None, "", True),
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.0/8", "192.0.2.7/32"], "192.0.2.7", True),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["10.0.0.0/8"], "::ffff:11.1.2.3", False),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["2001:db8::/32"], "10.1.2.3", False),
        (["0.0.0.0/0"], "", False),
        (["0.0.0.0/0"], "unix:", False),
        ([], "10.1.2.3", False),
    ],
)
def test_a_key_is_bound_to_its_networks(networks: list[str] | None, address: str, allowed: bool) -> None:
    key = replace(KEY, networks=None if networks is None else tuple(ip_network(each) for each in networks))
    if allowed:
        policy.check_key(key, address, NOW)
        return
    with pytest.raises(Denied) as refused:
        policy.check_key(key, address, NOW)
    assert refused.value.reason == "network"
