"""The script is read the same way by every vendor, and what was given is what is billed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.upstreams.script import Ask, Call, plan, sample, triggers, words

CHAT = {"model": "gpt-4o", "stream": True}


@pytest.mark.parametrize("text", ["a b", " a  b\n\nc ", "", " ", "\n\nx y\n"])
def test_words_lose_nothing(text: str) -> None:
    assert "".join(words(text)) == text


def test_triggers_may_hold_brackets_of_their_own() -> None:
    found, said = triggers('Hi [[tool:w {"c":[["x"]]}]] and [[max]] [[text:Hello [x] there]] ok [[rawtool:w {"c":]]')
    assert found == [("tool", 'w {"c":[["x"]]}'), ("max", ""), ("text", "Hello [x] there"), ("rawtool", 'w {"c":')]
    assert said == "Hi and ok"


def test_tools_are_called_once_and_then_one_by_one() -> None:
    ask = Ask("m", tools={"f": {"type": "object"}, "g": {"type": "object"}})
    ask.hear("[[tool:f {}]] [[then:g {}]]")
    assert plan(ask).calls == (Call("f", "{}"),)
    ask.learn(["one"])
    assert plan(ask).calls == (Call("g", "{}"),)
    ask.learn(["two"])
    assert (plan(ask).calls, plan(ask).whole_text) == ((), "The tools said: one; two")


def test_a_forced_tool_is_called_without_being_asked_for() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert plan(Ask("m", tools={"f": schema}, choice="any")).calls == (Call("f", '{"n": 1}'),)
    assert plan(Ask("m", tools={"f": schema}, choice="none")).calls == ()


def test_a_sample_follows_references_and_both_spellings_of_types() -> None:
    schema = {"$defs": {"c": {"enum": ["red"]}}, "type": "ARRAY", "items": {"$ref": "#/$defs/c"}, "minItems": 2}
    assert sample(schema) == ["red", "red"]


def chat(vendor: Any, prompt: str) -> httpx2.Response:
    body = {**CHAT, "messages": [{"role": "user", "content": prompt}]}
    return httpx2.post(f"{vendor.url}/v1/chat/completions", json=body, headers={"authorization": "Bearer upstream-key"})


def test_a_cut_stream_is_billed_for_what_was_given(upstream: Callable[[str], Any]) -> None:
    vendor = upstream("openai")
    with pytest.raises(httpx2.RemoteProtocolError):
        chat(vendor, "[[cut:after=3]] [[long:50]]")
    assert (vendor.billed[0].usage.output, vendor.billed[0].complete) == (3, False)
    assert vendor.requests[0].answered == 200


def test_a_caller_who_leaves_stops_the_run(upstream: Callable[[str], Any]) -> None:
    vendor = upstream("openai")
    body = {**CHAT, "messages": [{"role": "user", "content": "[[pace:0.01]] [[long:5000]]"}]}
    headers = {"authorization": "Bearer upstream-key"}
    with httpx2.stream("POST", f"{vendor.url}/v1/chat/completions", json=body, headers=headers) as response:
        next(response.iter_raw())
    vendor.wait_until(lambda: vendor.billed)
    assert vendor.requests[0].left
    assert vendor.billed[0].usage.output < 5000


def test_faults_wait_for_the_next_requests(upstream: Callable[[str], Any]) -> None:
    vendor = upstream("openai")
    vendor.faults.extend(["503", "429 retry-after=7"])
    assert [chat(vendor, "Hi").status_code for _ in range(3)] == [503, 429, 200]


def test_a_refusal_and_a_broken_connection_are_different_things(upstream: Callable[[str], Any]) -> None:
    vendor = upstream("openai")
    assert chat(vendor, "[[error:502 html]]").headers["content-type"] == "text/html"
    assert chat(vendor, "[[error:200 garbage]]").content == b'{"broken": [1, 2'
    with pytest.raises(httpx2.RemoteProtocolError):
        chat(vendor, "[[cut]]")
