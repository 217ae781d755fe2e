"""What GATEHOUSE_OIDC_ROLES may say, and what somebody's groups give by it."""

from __future__ import annotations

import pytest

from keys.role_map import Roles, parse, roles_of

MAPPING = parse(
    '{"admins": "superuser", "staff": "acme:member", "leads": ["acme:admin", "acme/search:owner"],'
    ' "cn=guests, ou=x": "acme:viewer"}'
)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([], Roles()),
        (["unknown", "ADMINS", "staff "], Roles()),
        (["admins"], Roles(superuser=True)),
        (["cn=guests, ou=x"], Roles(places={("acme", ""): "viewer"})),
        (["leads"], Roles(places={("acme", ""): "admin", ("acme", "search"): "owner"})),
    ],
)
def test_groups_give_what_the_mapping_says_and_unknown_ones_nothing(groups: list[str], expected: Roles) -> None:
    assert roles_of(groups, MAPPING) == expected
    assert bool(roles_of(groups, MAPPING)) is bool(expected.superuser or expected.places)


@pytest.mark.parametrize("groups", [["staff", "leads", "cn=guests, ou=x"], ["cn=guests, ou=x", "leads", "staff"]])
def test_of_several_roles_in_one_place_the_highest_counts(groups: list[str]) -> None:
    assert roles_of(groups, MAPPING).places["acme", ""] == "admin"


@pytest.mark.parametrize(
    "text",
    [
        "staff=acme:member", "[]", '{"a": 1}', '{"a": []}', '{"a": "root"}', '{"a": "acme"}', '{"a": ":owner"}',
        '{"a": "acme:boss"}', '{"a": "acme/:member"}', '{"a": "acme/x/y:member"}', '{"a": ["acme:member", null]}',
        '{"a": "acme:member "}', '{"a": "Superuser"}',
    ],
)  # fmt: skip
def test_what_is_no_mapping_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|is no role"):
        parse(text)


def test_no_mapping_at_all_gives_nothing() -> None:
    assert parse("  ") == {}
