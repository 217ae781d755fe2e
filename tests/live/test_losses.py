"""What a backend cannot take, in every language: named in the header and in the record, refused when strict, never silent."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest

from gemini_api import probes
from gemini_api.probes import PROBES, Outcome, Probe
from gemini_api.translators.base import Target
from routing.backends import BACKENDS
from tests.live.added import added
from tests.live.gateway import PLACES
from tests.live.world import KINDS, Json, Kind, World, recorded, saying

pytestmark = pytest.mark.live

ACTIONS = ("generateContent", "streamGenerateContent")


def target_of(kind: Kind) -> Target:
    """What the gateway knows of this kind's deployment."""
    options = {**PLACES[kind.upstream].get("options", {}), **kind.options}
    capabilities = {**BACKENDS[kind.kind].capabilities, **kind.capabilities}
    return Target(model=kind.model, base_model=kind.model, options=options, capabilities=capabilities)


def found(kind: Kind, fate: str) -> Iterator[tuple[Probe, Outcome]]:
    for probe in PROBES:
        outcome = probes.outcome(probe, kind.language, target_of(kind))
        if outcome.fate == fate:
            yield probe, outcome


def field_of(answer: Any) -> str:
    said = answer.json()
    error = (said[0] if isinstance(said, list) else said)["error"]
    assert (answer.status_code, error["status"]) == (400, "INVALID_ARGUMENT"), answer.text
    [field] = [each["field"] for detail in error["details"] for each in detail.get("fieldViolations", ())]
    return str(field)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_loss_is_in_the_header_and_in_the_record_of_answers_and_streams(world: World, kind: Kind) -> None:
    wanted: dict[str, list[str]] = {}
    for (probe, outcome), action in zip(found(kind, "dropped"), cycle(ACTIONS), strict=False):
        answer = world.ask(kind.name, action, probe.body)
        assert answer.status_code == 200, (probe.title, answer.text)
        assert answer.headers.get("x-gatehouse-dropped") == ", ".join(outcome.fields), probe.title
        wanted[answer.headers["x-request-id"]] = list(outcome.fields)
    assert wanted
    rows = recorded(world.gateway, wanted)
    assert {call_id: row["dropped"] for call_id, row in rows.items()} == wanted


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_strict_key_turns_every_loss_into_a_refusal_and_nothing_is_sent(world: World, kind: Kind) -> None:
    vendor = world.vendor(kind)
    for (probe, outcome), action in zip(found(kind, "dropped"), cycle(ACTIONS), strict=False):
        assert field_of(world.ask(kind.name, action, probe.body, key="strict")) in outcome.fields, probe.title
    assert not vendor.requests


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_would_change_the_answer_is_refused_by_its_field_and_nothing_is_sent(world: World, kind: Kind) -> None:
    vendor = world.vendor(kind)
    for probe, outcome in found(kind, "refused"):
        assert (field_of(world.ask(kind.name, body=probe.body)),) == outcome.fields, probe.title
    assert not vendor.requests


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_bookkeeping_is_no_loss_not_even_for_a_strict_key(world: World, kind: Kind) -> None:
    for probe, _ in found(kind, "unused"):
        answer = world.ask(kind.name, body=probe.body, key="strict")
        assert answer.status_code == 200, (probe.title, answer.text)
        assert "x-gatehouse-dropped" not in answer.headers


# ── strict models, and what is only found out by asking ──


def deployment(kind: str, model: str, **more: Any) -> Json:
    return {"connection": kind, "upstream_model": model, **more}


@pytest.fixture(scope="module")
def models(world: World) -> None:
    strict: list[Json] = [
        {"name": f"strict-{kind.name}", "strict_fields": True, "deployments": [deployment(kind.name, kind.model)]}
        for kind in KINDS
    ]
    # A table that is behind the times: the model takes no temperature any more.
    believed = deployment("openai", "gpt-5", capabilities={"sampling": "yes"})
    learnt: list[Json] = [
        {"name": "found-out", "deployments": [believed]},
        {"name": "found-out-strictly", "deployments": [believed]},
        {"name": "found-out-and-strict", "strict_fields": True, "deployments": [believed]},
    ]
    added(world, [{"unpriced": "serve", **each} for each in (*strict, *learnt)])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_strict_model_refuses_as_a_strict_key_does(world: World, models: None, kind: Kind) -> None:
    vendor = world.vendor(kind)
    probe, outcome = next(found(kind, "dropped"))
    for action in ACTIONS:
        assert field_of(world.ask(f"strict-{kind.name}", action, probe.body)) in outcome.fields
    assert not vendor.requests
    assert world.ask(f"strict-{kind.name}").status_code == 200


WARM = saying("Hi", generationConfig={"temperature": 0.5})


@pytest.mark.parametrize("action", ACTIONS)
def test_a_parameter_that_was_refused_is_left_out_at_once_and_from_then_on(
    world: World, models: None, action: str
) -> None:
    vendor = world.vendor("openai")
    answers = [world.ask("found-out", action, WARM) for _ in range(2)]
    assert {answer.status_code for answer in answers} == {200}
    sent = [request.json for request in vendor.requests]
    if action == "generateContent":  # the first to find out
        assert ["temperature" in body for body in sent] == [True, False, False]
    else:
        assert ["temperature" in body for body in sent] == [False, False]
    assert {answer.headers["x-gatehouse-dropped"] for answer in answers} == {"generationConfig.temperature"}
    rows = recorded(world.gateway, [answer.headers["x-request-id"] for answer in answers])
    assert [row["dropped"] for row in rows.values()] == [["generationConfig.temperature"]] * 2


@pytest.mark.parametrize(("model", "key"), [("found-out-strictly", "strict"), ("found-out-and-strict", "ci")])
def test_who_is_strict_hears_of_it_and_the_second_time_nothing_is_sent(
    world: World, models: None, model: str, key: str
) -> None:
    vendor = world.vendor("openai")
    for _ in range(2):
        assert field_of(world.ask(model, body=WARM, key=key)) == "generationConfig.temperature"
    assert len(vendor.requests) == 1
