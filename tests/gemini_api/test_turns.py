"""A history becomes alternating turns, and every result finds its call."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemini_api import wire
from gemini_api.errors import InvalidArgument
from gemini_api.translators import turns
from gemini_api.translators.base import Target
from gemini_api.translators.losses import Losses
from gemini_api.translators.turns import Call, Opaque, Result, Text, Turn

Json = dict[str, Any]
USABLE = re.compile(r"[A-Za-z0-9_-]{1,40}")


def read(contents: list[Json], **options: Any) -> list[Turn]:
    losses = Losses(Target(model="m"), "a test")
    return turns.read(wire.normalise({"contents": contents}), losses, **options)


def asked(*calls: Json) -> list[Json]:
    return [
        {"role": "user", "parts": [{"text": "q"}]},
        {"role": "model", "parts": [{"functionCall": call} for call in calls]},
    ]


def answered(*responses: Json) -> Json:
    return {"role": "user", "parts": [{"functionResponse": {"response": {}, **response}} for response in responses]}


def results(contents: list[Json]) -> list[Result]:
    return read(contents)[-1].results


def test_neighbours_of_one_role_become_one_turn_and_keep_their_order() -> None:
    texts = [("user", "a"), ("user", "b"), ("model", "c"), ("model", "d")]
    found = read([{"role": role, "parts": [{"text": text}]} for role, text in texts])
    assert found == [Turn("user", items=[Text("a"), Text("b")]), Turn("model", items=[Text("cd")])]


def test_thought_summaries_are_never_sent_back_as_text() -> None:
    found = read(
        [
            {"role": "user", "parts": [{"text": "q"}]},
            {"role": "model", "parts": [{"text": "hm", "thought": True}, {"text": "a"}]},
        ]
    )
    assert found[1].items == [Text("a")]


def test_a_model_turn_of_nothing_disappears_and_its_neighbours_meet() -> None:
    found = read(
        [
            {"role": "user", "parts": [{"text": "a"}]},
            {"role": "model", "parts": [{"text": ""}]},
            {"role": "user", "parts": [{"text": "b"}]},
        ]
    )
    assert found == [Turn("user", items=[Text("a"), Text("b")])]


@pytest.mark.parametrize(("drop_blank", "expected"), [(True, "."), (False, "  ")])
def test_blank_text_becomes_a_dot_where_the_vendor_refuses_it(drop_blank: bool, expected: str) -> None:
    assert read([{"role": "user", "parts": [{"text": "  "}]}], drop_blank=drop_blank) == [
        Turn("user", items=[Text(expected)])
    ]


def test_results_come_first_in_the_order_of_their_calls() -> None:
    contents = [
        *asked({"id": "1", "name": "f"}, {"id": "2", "name": "g"}),
        answered({"id": "2", "name": "g"}, {"id": "1", "name": "f"}),
    ]
    contents[2]["parts"].insert(0, {"text": "and?"})
    last = read(contents)[-1]
    assert [result.id for result in last.results] == ["1", "2"]
    assert last.items == [Text("and?")]


@pytest.mark.parametrize(
    ("calls", "responses"),
    [
        (
            [{"name": "f"}, {"name": "f"}],
            [{"name": "f", "response": {"output": "0"}}, {"name": "f", "response": {"output": "1"}}],
        ),
        (
            [{"id": "c1", "name": "f"}, {"id": "c2", "name": "f"}],
            [
                {"id": "f__c2", "name": "f", "response": {"output": "1"}},
                {"id": "f__c1", "name": "f", "response": {"output": "0"}},
            ],
        ),
        (
            [{"id": "f__c1", "name": "f"}, {"name": "g"}],
            [
                {"id": "x", "name": "g", "response": {"output": "1"}},
                {"id": "f__c1", "name": "f", "response": {"output": "0"}},
            ],
        ),
        ([{"id": "c1", "name": "f"}], [{"id": "other", "name": "elsewhere", "response": {"output": "0"}}]),
        (
            [{"id": "c1", "name": "f"}, {"id": "c2", "name": "f"}],
            [{"name": "f", "response": {"output": "0"}}, {"name": "f", "response": {"output": "1"}}],
        ),
    ],
)
def test_a_result_finds_its_call_by_id_by_name_or_by_what_is_left(calls: list[Json], responses: list[Json]) -> None:
    assert [result.text() for result in results([*asked(*calls), answered(*responses)])] == [
        str(n) for n in range(len(calls))
    ]


@pytest.mark.parametrize(
    ("calls", "responses"),
    [
        ([{"name": "f"}, {"name": "g"}, {"name": "h"}], [{"name": "f"}, {"name": "g"}]),
        ([{"name": "f"}], [{"name": "f"}, {"name": "f"}]),
        (
            [{"id": "1", "name": "f"}, {"id": "2", "name": "f"}],
            [{"id": "1", "name": "f"}, {"id": "1", "name": "f"}, {"id": "2", "name": "f"}],
        ),
        ([{"id": "1", "name": "f"}, {"id": "2", "name": "g"}], [{"id": "x", "name": "k"}, {"id": "y", "name": "k"}]),
    ],
)
def test_too_few_or_too_many_results_are_refused(calls: list[Json], responses: list[Json]) -> None:
    with pytest.raises(InvalidArgument, match="number of function response parts is equal"):
        read([*asked(*calls), answered(*responses)])


def test_a_call_that_nobody_answered_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="number of function response parts is equal"):
        read(asked({"name": "f"}))


def test_a_result_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="immediately after a function call"):
        read([{"role": "user", "parts": [{"text": "q"}]}, answered({"name": "f"})])


def test_streamed_function_responses_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="willContinue"):
        read([*asked({"name": "f"}), answered({"name": "f", "willContinue": True})])


@pytest.mark.parametrize(
    ("response", "text", "failed"),
    [
        ({"output": "fine"}, "fine", False),
        ({"output": {"a": [1]}}, '{"a":[1]}', False),
        ({"result": 3}, '{"result":3}', False),
        ({}, "{}", False),
        ({"error": "no"}, "no", True),
        ({"error": {"code": 1}}, '{"code":1}', True),
    ],
)
def test_what_a_result_says(response: Json, text: str, failed: bool) -> None:
    (result,) = results([*asked({"name": "f"}), answered({"name": "f", "response": response})])
    assert (result.text(), result.failed) == (text, failed)


def test_blocks_stand_before_the_part_that_carried_them() -> None:
    contents = [
        {"role": "user", "parts": [{"text": "q"}]},
        {"role": "model", "parts": [{"text": "a"}, {"text": "b", "thoughtSignature": "AQID"}]},
    ]
    found = read(contents, opaque=lambda signature: [{"sealed": signature}])
    assert found[1].items == [Text("a"), Opaque([{"sealed": "AQID"}]), Text("b")]
    assert read(contents, opaque=lambda signature: [])[1].items == [Text("ab")]


def test_code_of_earlier_turns_is_shown_and_declared_lost() -> None:
    losses = Losses(Target(model="m"), "a test")
    contents = [
        {"role": "user", "parts": [{"text": "q"}]},
        {"role": "model", "parts": [{"executableCode": {"code": "1+1", "language": "PYTHON"}}]},
    ]
    found = turns.read(wire.normalise({"contents": contents}), losses)
    assert found[1].items == [Text("\n```python\n1+1\n```\n")]
    assert losses.paths == ("contents.parts.executableCode",)


IDS = st.none() | st.text(max_size=50) | st.sampled_from(["c1", "c1", "call_2", "name__c1"])
NAMES = st.sampled_from(["f", "g", "get_weather"])
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": IDS,
            "name": NAMES,
            "args": st.dictionaries(st.text(max_size=3), st.integers(-(2**63), 2**63 - 1), max_size=2),
        }
    ),
    min_size=1,
    max_size=4,
)


# How long a machine takes to make examples says nothing about the code under test.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CALLS, min_size=1, max_size=3))
def test_ids_are_usable_unique_and_the_same_each_time(steps: list[list[Json]]) -> None:
    contents = [{"role": "user", "parts": [{"text": "q"}]}]
    for calls in steps:
        given_calls = [{name: value for name, value in call.items() if value is not None} for call in calls]
        contents.append({"role": "model", "parts": [{"functionCall": call} for call in given_calls]})
        contents.append(answered(*({"name": call["name"]} for call in given_calls)))
    ids = [[call.id for turn in read(contents) for call in turn.calls] for _ in "ab"]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0])
    assert all(USABLE.fullmatch(each) for each in ids[0])
    for turn, after in zip(read(contents)[1::2], read(contents)[2::2], strict=True):
        assert [(call.id, call.name) for call in turn.calls] == [(result.id, result.name) for result in after.results]


def test_short_ids_are_nine_letters_and_digits() -> None:
    found = read([*asked({"id": "call_1", "name": "f"}), answered({"id": "call_1", "name": "f"})], short_ids=True)
    call = found[1].items[0]
    assert isinstance(call, Call)
    assert re.fullmatch(r"[a-z0-9]{9}", call.id)
    assert found[2].results[0].id == call.id
