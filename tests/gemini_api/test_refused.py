"""What an upstream refused once is left out from then on: by its dotted name, for an hour, for so many deployments."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gemini_api import refused
from gemini_api.translators import TRANSLATORS

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(refused, "_noted", {})
    monkeypatch.setattr("gemini_api.refused.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize(
    ("payload", "name", "left"),
    [
        ({"a": 1, "b": 2}, "a", {"b": 2}),
        ({"a": 1}, "b", None),
        ({"a": 1}, "", None),
        ({"r": {"effort": "low", "summary": "auto"}, "b": 2}, "r.summary", {"r": {"effort": "low"}, "b": 2}),
        ({"r": {"summary": "auto"}, "b": 2}, "r.summary", {"b": 2}),
        ({"r": {"effort": "low"}}, "r.summary", None),
        ({"r": "low"}, "r.summary", None),
        ({"r": {"effort": "low", "summary": "auto"}}, "r", {}),
        ({"r": {"s": {"t": 1}, "u": 2}}, "r.s.t", {"r": {"u": 2}}),
    ],
)
def test_a_parameter_goes_by_its_dotted_name_and_takes_what_it_leaves_empty(
    payload: Json, name: str, left: Json | None
) -> None:
    before = repr(payload)
    assert refused.without(payload, name) == left
    assert repr(payload) == before


def test_a_note_is_for_one_version_and_for_an_hour(clock: list[float]) -> None:
    refused.note("v1", "temperature")
    clock[0] += refused.KEPT / 2
    refused.note("v1", "reasoning.summary")
    assert (refused.known("v1"), refused.known("v2")) == (["temperature", "reasoning.summary"], [])
    clock[0] += refused.KEPT / 2
    assert refused.known("v1") == ["reasoning.summary"]
    clock[0] += refused.KEPT / 2
    assert refused.known("v1") == []


def test_the_oldest_versions_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused, "MOST", 2)
    for version in ("a", "b", "a", "c"):
        refused.note(version, "seed")
    assert (refused.known("a"), refused.known("b"), refused.known("c")) == (["seed"], [], ["seed"])


def test_every_dispensable_parameter_is_a_field_of_the_generation_config_or_nothing() -> None:
    tables = {name: getattr(module, "DISPENSABLE", {}) for name, module in TRANSLATORS.items()}
    assert {name for name, table in tables.items() if table} == TRANSLATORS.keys() - {"gemini"}
    for table in tables.values():
        assert all(field == "" or field.startswith("generationConfig.") for field in table.values())
