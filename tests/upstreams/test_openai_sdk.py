"""The openai SDK reads what our OpenAI upstreams write: so they speak its API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FLAT_WEATHER = {"type": "function", "strict": False, **WEATHER["function"]}  # type: ignore[dict-item]  # it is a dict
BOTH_CITIES = '[[tool:get_weather {"city":"Rome"}]][[tool:get_weather {"city":"Oslo"}]] Weather?'


class City(BaseModel):
    name: str
    people: int


@pytest.fixture
def chat(upstream: Callable[[str], Any]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{upstream('openai').url}/v1", api_key="upstream-key", max_retries=0) as client:
        yield client


@pytest.fixture
def responses(upstream: Callable[[str], Any]) -> Iterator[openai.OpenAI]:
    url = upstream("openai_responses").url
    with openai.OpenAI(base_url=f"{url}/v1", api_key="upstream-key", max_retries=0) as client:
        yield client


def ask(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}], **more}


# ── Chat Completions ──


def test_chat_answers_with_text_and_usage(chat: openai.OpenAI, upstream: Callable[[str], Any]) -> None:
    vendor = upstream("openai")
    answer = chat.chat.completions.create(**ask("Good morning"))
    assert answer.choices[0].message.content == "You said: Good morning."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens == vendor.billed[0].usage.total
    assert vendor.requests[0].json["messages"][0]["content"] == "Good morning"


def test_chat_stream_is_the_same_answer_in_pieces(chat: openai.OpenAI) -> None:
    stream = chat.chat.completions.create(**ask("one two three"), stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "You said: one two three."
    assert len(chunks) > 6
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 5


def test_chat_calls_tools_in_parallel_and_reads_their_results(chat: openai.OpenAI) -> None:
    with chat.chat.completions.stream(**ask(BOTH_CITIES, tools=[WEATHER])) as stream:
        stream.until_done()
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert [json.loads(call.function.arguments)["city"] for call in message.tool_calls] == ["Rome", "Oslo"]
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{place} C"}
        for place, call in enumerate(message.tool_calls)
    ]
    history = [
        {"role": "user", "content": BOTH_CITIES},
        message.model_dump(exclude_unset=True, exclude={"parsed"}),
        *results,
    ]
    history[1] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": c.function.arguments}}
            for c in message.tool_calls
        ],
    }
    answer = chat.chat.completions.create(model="gpt-4o", messages=history, tools=[WEATHER])  # type: ignore[call-overload]  # plain dicts
    assert answer.choices[0].message.content == "The tools said: 0 C; 1 C"


def test_chat_structured_output_fits_the_schema(chat: openai.OpenAI) -> None:
    answer = chat.chat.completions.parse(**ask("A city"), response_format=City)
    assert answer.choices[0].message.parsed == City(name="sample", people=1)


def test_chat_embeddings_are_told_by_index(chat: openai.OpenAI) -> None:
    answer = chat.embeddings.create(
        model="text-embedding-3-small", input=["a", "b"], dimensions=4, encoding_format="float"
    )
    assert {one.index: len(one.embedding) for one in answer.data} == {0: 4, 1: 4}


@pytest.mark.parametrize(
    ("trigger", "error"),
    [
        ("[[error:400]]", openai.BadRequestError),
        ("[[error:401]]", openai.AuthenticationError),
        ("[[error:404]]", openai.NotFoundError),
        ("[[error:429 retry-after=7]]", openai.RateLimitError),
        ("[[error:500]]", openai.InternalServerError),
        ("[[error:502 html]]", openai.InternalServerError),
        ("[[cut]]", openai.APIConnectionError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_chat_fails_as_asked(chat: openai.OpenAI, trigger: str, error: type[Exception], stream: bool) -> None:
    with pytest.raises(error) as failed:
        chat.chat.completions.create(**ask(trigger), stream=stream)
    if isinstance(failed.value, openai.RateLimitError):
        assert failed.value.response.headers["retry-after"] == "7"


def test_chat_breaks_in_the_middle_in_words_or_without(chat: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="server had an error"):
        list(chat.chat.completions.create(**ask("[[midstream-error:after=2]] a b c d"), stream=True))
    with pytest.raises(openai.APIConnectionError):
        list(chat.chat.completions.create(**ask("[[cut:after=2]] a b c d"), stream=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"topK": 3},
        {"max_tokens": 0},
        {"stop": ["a"] * 5},
        {"tool_choice": "auto"},
        {"stream_options": {"include_usage": True}},
        {"response_format": {"type": "json_object"}},
        {"model": "gpt-5", "temperature": 0.2},
        {"model": "gpt-5", "max_tokens": 9},
        {"model": "gpt-4o", "reasoning_effort": "low"},
        {"model": "gpt-5.6-mini", "tools": [WEATHER]},
        {"messages": []},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,_-_"}}]}
            ]
        },
        {"messages": [{"role": "tool", "tool_call_id": "x", "content": "18 C"}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "OBJECT"}}}]},
        {"tools": [{"type": "function", "function": {"name": "a.b"}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}]},
    ],
)
def test_chat_refuses_what_the_vendor_refuses(upstream: Callable[[str], Any], chat: openai.OpenAI, wrong: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        chat.post("/chat/completions", body={**ask("Hello"), **wrong}, cast_to=object)
    assert upstream("openai").billed == []


def test_chat_wants_every_call_answered(chat: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(openai.BadRequestError, match="c1"):
        chat.post("/chat/completions", body=ask("", messages=history), cast_to=object)


# ── Azure ──


@pytest.fixture
def azure(upstream: Callable[[str], Any]) -> Iterator[openai.AzureOpenAI]:
    url = upstream("azure_openai").url
    with openai.AzureOpenAI(
        azure_endpoint=url, api_key="upstream-key", api_version="2024-10-21", max_retries=0
    ) as client:
        yield client


def test_azure_answers_on_the_deployments_path_with_filters(azure: openai.AzureOpenAI) -> None:
    chunks = list(azure.chat.completions.create(**ask("one two", model="chat-main"), stream=True))
    assert chunks[0].choices == []
    assert chunks[0].model_extra is not None and "prompt_filter_results" in chunks[0].model_extra
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "You said: one two."


def test_azure_blocks_a_prompt_with_its_own_error(azure: openai.AzureOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as blocked:
        azure.chat.completions.create(**ask("[[blocked]]", model="chat-main"))
    assert blocked.value.code == "content_filter"


def test_azure_serves_the_newer_paths_too(upstream: Callable[[str], Any]) -> None:
    url = upstream("azure_openai").url
    with openai.OpenAI(base_url=f"{url}/openai/v1", api_key="entra-token", max_retries=0) as client:
        assert (
            client.chat.completions.create(**ask("Hi", model="chat-main")).choices[0].message.content == "You said: Hi."
        )
        assert client.responses.create(model="chat-main", input="Hi", store=False).output_text == "You said: Hi."


@pytest.mark.parametrize(
    ("key", "version", "error"),
    [("wrong", "2024-10-21", openai.AuthenticationError), ("upstream-key", "soon", openai.NotFoundError)],
)
def test_azure_refuses_a_wrong_key_and_a_wrong_version(
    upstream: Callable[[str], Any], key: str, version: str, error: type[Exception]
) -> None:
    url = upstream("azure_openai").url
    client = openai.AzureOpenAI(azure_endpoint=url, api_key=key, api_version=version, max_retries=0)
    with client, pytest.raises(error):
        client.chat.completions.create(**ask("Hi", model="chat-main"))


# ── Gemini's compatible endpoint, and an imitation ──


@pytest.fixture
def compat(upstream: Callable[[str], Any]) -> Iterator[openai.OpenAI]:
    url = upstream("gemini_openai").url
    with openai.OpenAI(base_url=f"{url}/v1beta/openai", api_key="upstream-key", max_retries=0) as client:
        yield client


def test_compat_gives_calls_whole_and_stops_with_stop(compat: openai.OpenAI) -> None:
    chunks = list(
        compat.chat.completions.create(**ask(BOTH_CITIES, model="gemini-3-pro-preview", tools=[WEATHER]), stream=True)
    )
    calls = [call for c in chunks if c.choices for call in c.choices[0].delta.tool_calls or []]
    assert [json.loads(call.function.arguments)["city"] for call in calls if call.function] == ["Rome", "Oslo"]  # type: ignore[arg-type]  # set
    assert [call.index for call in calls] == [0, 0]
    assert calls[0].model_extra and calls[0].model_extra["extra_content"]["google"]["thought_signature"]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_compat_errors_are_a_list(compat: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as limited:
        compat.chat.completions.create(**ask("[[error:429 retry-after=7]]", model="gemini-2.5-flash"))
    body = limited.value.response.json()
    assert body[0]["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert body[0]["error"]["details"][0]["retryDelay"] == "7s"


def test_an_imitation_tells_its_reasoning(upstream: Callable[[str], Any]) -> None:
    url = upstream("compatible").url
    with openai.OpenAI(base_url=f"{url}/v1", api_key="upstream-key", max_retries=0) as client:
        message = client.chat.completions.create(**ask("[[think:Hmm well]] Hi", model="local")).choices[0].message
        assert message.model_extra and message.model_extra["reasoning_content"] == "Hmm well"
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**ask("Hi", model="local", max_completion_tokens=5))


# ── Responses ──


def test_responses_answers_with_text_and_usage(responses: openai.OpenAI) -> None:
    answer = responses.responses.create(model="gpt-4o", input="Good morning", store=False)
    assert answer.output_text == "You said: Good morning."
    assert answer.status == "completed"
    assert answer.usage is not None and answer.usage.output_tokens == 4


def test_responses_stream_ends_with_the_same_object(responses: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "gpt-5", "input": "[[think:I wonder]] one two", "store": False}
    asked["reasoning"] = {"effort": "low", "summary": "auto"}
    with responses.responses.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_response()
    whole = responses.responses.create(**asked)
    assert final.output_text == whole.output_text == "You said: one two."
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == sorted(
        event.sequence_number for event in events if hasattr(event, "sequence_number")
    )
    assert "".join(e.delta for e in events if e.type == "response.reasoning_summary_text.delta") == "I wonder"


def test_responses_carries_reasoning_and_results_through_a_tool_loop(responses: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "gpt-5", "store": False, "tools": [FLAT_WEATHER]}
    asked["include"] = ["reasoning.encrypted_content"]
    history: list[Any] = [{"role": "user", "content": f"[[think:Both]] {BOTH_CITIES}"}]
    with responses.responses.stream(input=history, **asked) as stream:
        answer = stream.get_final_response()
    calls = [item for item in answer.output if item.type == "function_call"]
    reasoning = next(item for item in answer.output if item.type == "reasoning")
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Rome", "Oslo"]
    history += [
        {"type": "reasoning", "id": reasoning.id, "summary": [], "encrypted_content": reasoning.encrypted_content}
    ]
    history += [
        {"type": "function_call", "call_id": c.call_id, "name": c.name, "arguments": c.arguments} for c in calls
    ]
    history += [{"type": "function_call_output", "call_id": c.call_id, "output": "3 C"} for c in calls]
    assert responses.responses.create(input=history, **asked).output_text == "The tools said: 3 C; 3 C"
    with pytest.raises(openai.BadRequestError):
        responses.responses.create(input=history[:-1], **asked)
    history[1] = {**history[1], "encrypted_content": "gBBBB"}
    with pytest.raises(openai.BadRequestError, match="encrypted"):
        responses.responses.create(input=history, **asked)


def test_responses_structured_output_fits_the_schema(responses: openai.OpenAI) -> None:
    answer = responses.responses.parse(model="gpt-4o", input="A city", text_format=City, store=False)
    assert answer.output_parsed == City(name="sample", people=1)


def test_responses_ends_early_refuses_and_fails(responses: openai.OpenAI) -> None:
    short = responses.responses.create(model="gpt-4o", input="[[long:99]]", max_output_tokens=16, store=False)
    assert short.status == "incomplete" and short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"
    refused = responses.responses.create(model="gpt-4o", input="[[refusal]]", store=False)
    assert refused.output[0].content[0].type == "refusal"  # type: ignore[union-attr]  # a message
    events = list(responses.responses.create(model="gpt-4o", input="[[midstream-error:after=1]] a b", stream=True))
    assert events[-1].type == "response.failed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"stop": ["a"]},
        {"max_output_tokens": 5},
        {"reasoning": {"effort": "low"}},
        {"include": ["reasoning.encrypted_content"]},
        {"tools": [{k: v for k, v in FLAT_WEATHER.items() if k != "strict"}]},  # strict is the default, and it is not
        {"input": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]},
        {"input": [{"type": "function_call_output", "call_id": "c1", "output": "a"}]},
    ],
)
def test_responses_refuses_what_the_vendor_refuses(responses: openai.OpenAI, wrong: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        responses.post("/responses", body={"model": "gpt-4o", "input": "Hi", "store": False, **wrong}, cast_to=object)


def test_responses_counts_input_tokens(responses: openai.OpenAI) -> None:
    counted: Any = responses.post("/responses/input_tokens", body={"model": "gpt-4o", "input": "a b c"}, cast_to=object)
    assert counted["input_tokens"] == 3
