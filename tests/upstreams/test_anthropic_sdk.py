"""The anthropic SDK reads what our Messages upstreams write, directly and on Vertex."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
import pytest

MODEL = "claude-opus-4-5-preview"  # the SDK warns of models whose end is near
WEATHER = {
    "name": "get_weather",
    "description": "Current weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
BOTH_CITIES = '[[tool:get_weather {"city":"Rome"}]][[tool:get_weather {"city":"Oslo"}]] Weather?'


@pytest.fixture
def client(upstream: Callable[[str], Any]) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=upstream("anthropic").url,
        api_key="upstream-key",
        max_retries=0,
        default_headers={"anthropic-version": "2023-06-01"},
    ) as client:
        yield client


def ask(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 4000, "messages": [{"role": "user", "content": prompt}], **more}


def test_answers_with_text_and_usage(client: anthropic.Anthropic, upstream: Callable[[str], Any]) -> None:
    message = client.messages.create(**ask("Good morning [[cached:1]]", system="Be brief."))
    assert message.content[0].text == "You said: Good morning."  # type: ignore[union-attr]  # a text block
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (4, 1, 4)
    assert upstream("anthropic").url


def test_stream_adds_up_to_the_same_message(client: anthropic.Anthropic) -> None:
    asked = ask("[[think:Both cities]] [[text:Checking.]] " + BOTH_CITIES, tools=[WEATHER])
    asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    with client.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    whole = client.messages.create(**asked)
    unparsed = [block.model_dump(exclude={"parsed_output"}) for block in final.content]
    assert unparsed == [block.model_dump() for block in whole.content]
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert final.content[0].signature.startswith("EqQB")  # type: ignore[union-attr]  # a thinking block
    assert final.content[3].input == {"city": "Oslo"}  # type: ignore[union-attr]  # a tool block
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_tool_loop_needs_every_result_first_and_its_own_thinking(client: anthropic.Anthropic) -> None:
    asked = ask("[[think:Hm]] " + BOTH_CITIES, tools=[WEATHER], thinking={"type": "enabled", "budget_tokens": 1024})
    turn = [block.model_dump(exclude_none=True) for block in client.messages.create(**asked).content]
    turn = [{name: value for name, value in block.items() if name != "caller"} for block in turn]
    results = [
        {"type": "tool_result", "tool_use_id": b["id"], "content": "3 C"} for b in turn if b["type"] == "tool_use"
    ]

    def with_history(model_turn: list[Any], user_turn: list[Any]) -> Any:
        history = [
            *asked["messages"],
            {"role": "assistant", "content": model_turn},
            {"role": "user", "content": user_turn},
        ]
        return client.messages.create(**{**asked, "messages": history})

    assert with_history(turn, results).content[-1].text == "The tools said: 3 C; 3 C"
    with pytest.raises(anthropic.BadRequestError, match="tool_use"):
        with_history(turn, results[:1])
    with pytest.raises(anthropic.BadRequestError, match="must come first"):
        with_history(turn, [{"type": "text", "text": "and"}, *results])
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        with_history(turn[1:], results)
    with pytest.raises(anthropic.BadRequestError, match="signature"):
        with_history([{**turn[0], "signature": "forged"}, *turn[1:]], results)


def test_structured_output_fits_the_schema(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    closed = {**schema, "additionalProperties": False}
    asked = ask("A city", output_config={"format": {"type": "json_schema", "schema": closed}})
    assert client.messages.create(**asked).content[0].text == '{"name": "sample"}'  # type: ignore[union-attr]  # text
    with pytest.raises(anthropic.BadRequestError, match="additionalProperties"):
        client.messages.create(**ask("A city", output_config={"format": {"type": "json_schema", "schema": schema}}))


def test_counts_tokens(client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "a b c"}]).input_tokens == 3


@pytest.mark.parametrize(
    ("trigger", "error"),
    [
        ("[[error:400]]", anthropic.BadRequestError),
        ("[[error:401]]", anthropic.AuthenticationError),
        ("[[error:404]]", anthropic.NotFoundError),
        ("[[error:429 retry-after=7]]", anthropic.RateLimitError),
        ("[[error:529]]", anthropic.InternalServerError),
        ("[[cut]]", anthropic.APIConnectionError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_fails_as_asked(client: anthropic.Anthropic, trigger: str, error: type[Exception], stream: bool) -> None:
    with pytest.raises(error):
        client.messages.create(**ask(trigger), stream=stream)


def test_breaks_in_the_middle_in_words_or_without(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        list(client.messages.create(**ask("[[midstream-error:after=2]] a b c d"), stream=True))
    with pytest.raises(httpx2.RemoteProtocolError):
        list(client.messages.create(**ask("[[cut:after=2]] a b c d"), stream=True))


@pytest.mark.parametrize(
    ("trigger", "reason"), [("[[long:99]]", "max_tokens"), ("[[refusal]]", "refusal"), ("a STOP b", "stop_sequence")]
)
def test_says_why_it_ended(client: anthropic.Anthropic, trigger: str, reason: str) -> None:
    message = client.messages.create(**ask(trigger, max_tokens=5, stop_sequences=["STOP"]))
    assert message.stop_reason == reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": None},
        {"seed": 3},
        {"temperature": 0.5, "top_p": 0.5},
        {"temperature": 1.5},
        {"model": "claude-opus-5-5", "temperature": 0.5},
        {"model": "claude-opus-5-5", "tools": [WEATHER], "tool_choice": {"type": "any"}},
        {"thinking": {"type": "adaptive"}},
        {"thinking": {"type": "enabled", "budget_tokens": 5000}},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "tools": [WEATHER], "tool_choice": {"type": "any"}},
        {"stop_sequences": [" "]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
        {"messages": [{"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": " "}]}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b "}]},
        {"tools": [{**WEATHER, "input_schema": {"type": "OBJECT"}}]},
        {"tools": [{**WEATHER, "name": "a.b"}]},
        {"tool_choice": {"type": "auto"}},
    ],
)
def test_refuses_what_the_vendor_refuses(
    client: anthropic.Anthropic, upstream: Callable[[str], Any], wrong: Any
) -> None:
    body = {name: value for name, value in {**ask("Hello"), **wrong}.items() if value is not None}
    with pytest.raises(anthropic.BadRequestError):
        client.post("/v1/messages", body=body, cast_to=object)
    assert upstream("anthropic").billed == []


# ── Claude on Vertex ──


@pytest.fixture
def on_vertex(upstream: Callable[[str], Any]) -> Iterator[anthropic.AnthropicVertex]:
    vendor = upstream("vertex")
    vendor.tokens.append("a-token")
    url = f"{vendor.url}/v1"
    with anthropic.AnthropicVertex(
        base_url=url, access_token="a-token", project_id=vendor.project, region="us-central1", max_retries=0
    ) as client:
        yield client


def test_vertex_serves_claude_whole_and_streamed(on_vertex: anthropic.AnthropicVertex) -> None:
    asked = {**ask("one two"), "model": "claude-opus-4-5@preview"}
    whole = on_vertex.messages.create(**asked)
    with on_vertex.messages.stream(**asked) as stream:
        assert stream.get_final_text() == whole.content[0].text == "You said: one two."  # type: ignore[union-attr]  # text


def test_vertex_refuses_in_anthropics_words(on_vertex: anthropic.AnthropicVertex) -> None:
    with pytest.raises(anthropic.RateLimitError):
        on_vertex.messages.create(**ask("[[error:429]]"))
    with pytest.raises(anthropic.BadRequestError, match="alternate"):
        on_vertex.messages.create(**ask("", messages=[{"role": "assistant", "content": "a"}]))
