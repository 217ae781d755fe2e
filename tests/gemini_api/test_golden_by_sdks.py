"""The vendors' own SDKs read the golden cases: our requests are ones they would send, the answers ones they parse.

So the payloads in golden/ are the vendors' wire and not our idea of it.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import Message
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from botocore import session
from botocore.model import OperationModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from botocore.validate import ParamValidator
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import ConfigDict, TypeAdapter

from tests.gemini_api.test_golden import cases, frames, read
from tests.upstreams.bedrock import frame

Json = dict[str, Any]


def folders(kind: str, language: str) -> list[Any]:
    """The golden cases of one language that have a file of this kind."""
    return [case for case in cases(kind) if case.values[1] == language]


def strict(kind: Any) -> TypeAdapter[Any]:
    """A TypedDict of an SDK that takes no field it does not know, at any depth (which only holds inside a list)."""
    return TypeAdapter(list[kind], config=ConfigDict(extra="forbid"))


def check(kind: str, value: Any) -> None:
    """Raises ValueError. Iterables are only checked while they are read."""
    read_all(adapters()[kind].validate_python(value))


def read_all(value: Any) -> None:
    if isinstance(value, str | bytes | int | float | None):
        return
    for each in value.values() if isinstance(value, dict) else value:
        read_all(each)


@cache
def adapters() -> dict[str, TypeAdapter[Any]]:
    return {
        "responses": strict(ResponseCreateParamsNonStreaming),
        "anthropic_messages": strict(MessageCreateParamsNonStreaming),
        "answer": TypeAdapter(Response),
        "event": TypeAdapter(ResponseStreamEvent),
    }


def serving(body: bytes, kind: str) -> httpx2.Client:
    """An HTTP client that answers everything with these bytes."""
    answer = httpx2.Response(200, headers={"content-type": kind}, content=body)
    return httpx2.Client(transport=httpx2.MockTransport(lambda request: answer))


# ── OpenAI ──


@pytest.mark.parametrize(("folder", "language"), folders("request.json", "responses"))
def test_the_openai_sdk_would_send_our_request(folder: Path, language: str) -> None:
    check(language, [read(folder, "responses.request.json")])


def test_a_field_that_the_openai_sdk_does_not_know_is_found() -> None:
    with pytest.raises(ValueError, match="stop"):
        check("responses", [{"model": "gpt-6", "input": "Hi", "stop": ["x"]}])


@pytest.mark.parametrize(("folder", "language"), folders("response.json", "responses"))
def test_the_openai_sdk_parses_the_answer(folder: Path, language: str) -> None:
    answer = read(folder, "responses.response.json")
    adapters()["answer"].validate_python(answer, strict=True)
    with serving(json.dumps(answer).encode(), "application/json") as http:
        parsed = openai.OpenAI(api_key="key", http_client=http).responses.create(model="gpt-6", input="Hi")
    assert parsed.id == answer["id"]


@pytest.mark.parametrize(("folder", "language"), folders("stream.txt", "responses"))
def test_the_openai_sdk_adds_the_stream_up_to_the_answer(folder: Path, language: str) -> None:
    text = (folder / "responses.stream.txt").read_bytes()
    with serving(text, "text/event-stream") as http:
        client = openai.OpenAI(api_key="key", http_client=http)
        events = [event.to_dict() for event in client.responses.create(model="gpt-6", input="Hi", stream=True)]
    for event in events:
        adapters()["event"].validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    with serving(text, "text/event-stream") as http:
        client = openai.OpenAI(api_key="key", http_client=http)
        with client.responses.stream(model="gpt-6", input="Hi") as stream:
            said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert said == openai_text(events[-1]["response"])


def openai_text(answer: Json) -> str:
    parts = [part for item in answer["output"] for part in item.get("content") or () if item["type"] == "message"]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


# ── Anthropic ──


@pytest.mark.parametrize(("folder", "language"), folders("request.json", "anthropic_messages"))
def test_the_anthropic_sdk_would_send_our_request(folder: Path, language: str) -> None:
    """The newest SDK's types leave sampling out: it speaks a version that refuses it, we speak 2023-06-01."""
    payload = read(folder, "anthropic_messages.request.json")
    for name in ("temperature", "top_p", "top_k"):
        payload.pop(name, None)
    check(language, [payload])


def test_a_field_that_the_anthropic_sdk_does_not_know_is_found() -> None:
    letter = {"model": "claude", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi", "name": "x"}]}
    with pytest.raises(ValueError, match="name"):
        check("anthropic_messages", [letter])


@pytest.mark.parametrize(("folder", "language"), folders("response.json", "anthropic_messages"))
def test_the_anthropic_sdk_parses_the_answer(folder: Path, language: str) -> None:
    answer = read(folder, "anthropic_messages.response.json")
    Message.model_validate(answer, strict=True)
    with serving(json.dumps(answer).encode(), "application/json") as http:
        client = anthropic.Anthropic(api_key="key", http_client=http)
        parsed = client.messages.create(model="claude", max_tokens=8, messages=[{"role": "user", "content": "Hi"}])
    assert parsed.id == answer["id"]


def anthropic_events(folder: Path) -> bytes:
    """The events as server-sent ones, also where InvokeModel wrapped them in frames."""
    path = folder / "anthropic_messages.stream.txt"
    if path.exists():
        return path.read_bytes()
    events = [
        json.loads(base64.b64decode(json.loads(each.data)["bytes"])) for each in frames(folder, "anthropic_messages")
    ]
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()


@pytest.mark.parametrize(("folder", "language"), folders("chunks.json", "anthropic_messages"))
def test_the_anthropic_sdk_adds_the_stream_up_to_the_answer(folder: Path, language: str) -> None:
    expected = read(folder, "anthropic_messages.response.json")
    with serving(anthropic_events(folder), "text/event-stream") as http:
        client = anthropic.Anthropic(api_key="key", http_client=http)
        messages = [{"role": "user", "content": "Hi"}]
        try:
            with client.messages.stream(model="claude", max_tokens=8, messages=messages) as stream:
                final = stream.get_final_message()
        except ValueError:  # arguments that are no JSON: the SDK gives up where we say MALFORMED_FUNCTION_CALL
            assert expected is None
            return
    assert final.stop_reason
    if expected is not None:
        said = [block.model_dump(exclude_none=True) for block in final.content]
        assert said == [
            {name: value for name, value in block.items() if value is not None} for block in expected["content"]
        ]
        assert final.usage.output_tokens == expected["usage"]["output_tokens"]


# ── Bedrock ──


@cache
def operation(name: str) -> OperationModel:
    return session.get_session().get_service_model("bedrock-runtime").operation_model(name)


def as_bytes(value: Any, shape: Any) -> Any:
    """botocore takes bytes where the wire has base64."""
    if shape.type_name == "blob":
        return base64.b64decode(value)
    if shape.type_name == "structure" and not getattr(shape, "is_document_type", False):
        unknown = value.keys() - shape.members.keys()
        assert not unknown, f"{shape.name} has no {unknown}"
        return {name: as_bytes(each, shape.members[name]) for name, each in value.items()}
    if shape.type_name == "list":
        return [as_bytes(each, shape.member) for each in value]
    return value


@pytest.mark.parametrize(("folder", "language"), folders("request.json", "bedrock_converse"))
def test_botocore_would_send_our_request_byte_for_byte(folder: Path, language: str) -> None:
    payload = read(folder, "bedrock_converse.request.json")
    model = operation("Converse")
    parameters = {"modelId": "amazon.nova-lite-v1:0", **as_bytes(payload, model.input_shape)}
    assert not ParamValidator().validate(parameters, model.input_shape).has_errors()
    sent = create_serializer("rest-json").serialize_to_request(copy.deepcopy(parameters), model)
    assert json.loads(sent["body"]) == payload


def test_a_field_that_botocore_does_not_know_is_found() -> None:
    with pytest.raises(AssertionError, match="tool_choice"):
        as_bytes({"messages": [], "tool_choice": {}}, operation("Converse").input_shape)


@pytest.mark.parametrize(("folder", "language"), folders("response.json", "bedrock_converse"))
def test_botocore_parses_the_answer(folder: Path, language: str) -> None:
    answer = read(folder, "bedrock_converse.response.json")
    shape = operation("Converse").output_shape
    as_bytes(answer, shape)
    wire = {"headers": {}, "status_code": 200, "body": json.dumps(answer).encode()}
    parsed = create_parser("rest-json").parse(wire, shape)
    assert parsed["stopReason"] == answer["stopReason"]
    assert len(parsed["output"]["message"]["content"]) == len(answer["output"]["message"]["content"])


class Raw:
    """What botocore's EventStream reads from."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def stream(self) -> Iterator[bytes]:
        for at in range(0, len(self.data), 7):
            yield self.data[at : at + 7]

    def close(self) -> None:
        self.data = b""


@pytest.mark.parametrize(("folder", "language"), folders("frames.json", "bedrock_converse"))
def test_botocore_reads_every_frame_of_the_stream(folder: Path, language: str) -> None:
    given = read(folder, "bedrock_converse.frames.json")
    model = operation("ConverseStream")
    shape = model.output_shape.members["stream"]
    wire = Raw(b"".join(frame("event", each["event"], each["data"]) for each in given))
    answer = {"headers": {}, "status_code": 200, "body": wire, "context": {"operation_name": model.name}}
    parsed = list(create_parser("rest-json").parse(answer, model.output_shape)["stream"])
    assert [next(iter(each)) for each in parsed] == [each["event"] for each in given]
    for each, event in zip(given, parsed, strict=True):
        padded = {name: value for name, value in each["data"].items() if name != "p"}
        as_bytes(padded, shape.members[each["event"]])
        assert event[each["event"]].keys() == padded.keys()
