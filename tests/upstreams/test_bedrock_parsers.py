"""botocore's signer, its parsers and its frame reader take what our Bedrock upstream writes, checksums and all."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import botocore.session
import httpx2
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.eventstream import EventStreamBuffer
from botocore.parsers import create_parser

from tests.upstreams.bedrock import frame

CLAUDE = "us.anthropic.claude-opus-4-5-20251101-v1:0"
NOVA = "amazon.nova-pro-v1:0"
GOOD = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
MODEL = botocore.session.get_session().get_service_model("bedrock-runtime")
TOOL = {
    "toolSpec": {
        "name": "get_weather",
        "description": "Current weather",
        "inputSchema": {"json": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
}
BOTH_CITIES = '[[tool:get_weather {"city":"Rome"}]][[tool:get_weather {"city":"Oslo"}]] Weather?'
PIXEL = base64.b64encode(b"\x89PNG not really").decode()


def call(
    vendor: Any,
    operation: str,
    body: Any,
    *,
    model: str = CLAUDE,
    credentials: Credentials = GOOD,
    region: str = "us-east-1",
) -> httpx2.Response:
    url = f"{vendor.url}/model/{quote(model, safe='')}/{operation}"
    request = AWSRequest(method="POST", url=url, data=json.dumps(body), headers={"content-type": "application/json"})
    SigV4Auth(credentials, "bedrock", region).add_auth(request)
    return httpx2.post(url, content=request.data, headers=dict(request.headers.items()))


def parsed(operation: str, response: httpx2.Response) -> Any:
    shape = MODEL.operation_model(operation).output_shape
    raw = {"status_code": response.status_code, "headers": dict(response.headers), "body": response.content}
    return create_parser("rest-json").parse(raw, shape)


def frames(content: bytes, size: int = 10_000) -> list[tuple[str, Any]]:
    """(event or exception, payload) of each frame, however the bytes are cut."""
    buffer, found = EventStreamBuffer(), []
    for start in range(0, len(content), size):
        buffer.add_data(content[start : start + size])
        for message in buffer:
            kind = message.headers.get(":event-type") or message.headers[":exception-type"]
            found.append((kind, json.loads(message.payload)))
    return found


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"text": text}]}


def test_frames_are_those_of_the_published_vector() -> None:
    known = (
        "00000083000000518f0874490b3a6576656e742d7479706507000b6d65737361676553746f700d3a636f6e74656e742d74797065070010"
        "6170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e747b2273746f70526561736f6e223a22656e"
        "645f7475726e222c2270223a226162227de5af7f2a"
    )
    payload = b'{"stopReason":"end_turn","p":"ab"}'
    assert [(k, v) for k, v in frames(bytes.fromhex(known))] == [("messageStop", json.loads(payload))]
    assert frames(frame("event", "messageStop", json.loads(payload))) == [("messageStop", json.loads(payload))]


def test_converse_is_parsed_by_the_service_model(upstream: Callable[[str], Any]) -> None:
    body = {"messages": [user(BOTH_CITIES)], "toolConfig": {"tools": [TOOL]}, "inferenceConfig": {"maxTokens": 100}}
    answer = parsed("Converse", call(upstream("bedrock"), "converse", body))
    assert answer["stopReason"] == "tool_use"
    uses = [block["toolUse"] for block in answer["output"]["message"]["content"]]
    assert [use["input"] for use in uses] == [{"city": "Rome"}, {"city": "Oslo"}]
    results = [{"toolResult": {"toolUseId": use["toolUseId"], "content": [{"text": "3 C"}]}} for use in uses]
    turn = {"role": "assistant", "content": [{"toolUse": use} for use in uses]}
    again = {**body, "messages": [user(BOTH_CITIES), turn, {"role": "user", "content": results}]}
    answer = parsed("Converse", call(upstream("bedrock"), "converse", again))
    assert answer["output"]["message"]["content"] == [{"text": "The tools said: 3 C; 3 C"}]
    assert answer["usage"]["totalTokens"] == answer["usage"]["inputTokens"] + answer["usage"]["outputTokens"]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_converse_stream_is_frames_in_any_cut(upstream: Callable[[str], Any], size: int) -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    body = {
        "messages": [user(f"[[think:Both]] [[text:Checking.]] {BOTH_CITIES}")],
        "toolConfig": {"tools": [TOOL]},
        "additionalModelRequestFields": thinking,
    }
    found = frames(call(upstream("bedrock"), "converse-stream", body).content, size)
    kinds = [kind for kind, _ in found]
    assert kinds[0] == "messageStart" and kinds[-2:] == ["messageStop", "metadata"]
    deltas = [payload["delta"] for kind, payload in found if kind == "contentBlockDelta"]
    assert "".join(delta.get("text", "") for delta in deltas) == "Checking."
    assert "".join(d["reasoningContent"].get("text", "") for d in deltas if "reasoningContent" in d) == "Both"
    assert "".join(d["toolUse"]["input"] for d in deltas if "toolUse" in d) == '{"city":"Rome"}{"city":"Oslo"}'


def test_invoke_carries_claudes_own_answer(upstream: Callable[[str], Any]) -> None:
    body = {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "one two"}],
    }
    whole = call(upstream("bedrock"), "invoke", body).json()
    assert whole["content"] == [{"type": "text", "text": "You said: one two."}]
    found = frames(call(upstream("bedrock"), "invoke-with-response-stream", body).content)
    events = [json.loads(base64.b64decode(payload["bytes"])) for _, payload in found]
    assert (
        "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")
        == "You said: one two."
    )
    assert events[-1]["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == 4


def test_a_failure_in_the_stream_is_an_exception_frame(upstream: Callable[[str], Any]) -> None:
    body = {"messages": [user("[[midstream-error:after=1]] a b")]}
    assert frames(call(upstream("bedrock"), "converse-stream", body).content)[-1][0] == "modelStreamErrorException"
    with pytest.raises(httpx2.RemoteProtocolError):
        call(upstream("bedrock"), "converse-stream", {"messages": [user("[[cut:after=1]] a b")]})


@pytest.mark.parametrize(
    ("trigger", "status", "kind"),
    [
        ("[[error:400]]", 400, "ValidationException"),
        ("[[error:403]]", 403, "AccessDeniedException"),
        ("[[error:429]]", 429, "ThrottlingException"),
        ("[[error:503]]", 503, "ServiceUnavailableException"),
    ],
)
def test_fails_as_asked(upstream: Callable[[str], Any], trigger: str, status: int, kind: str) -> None:
    answer = call(upstream("bedrock"), "converse", {"messages": [user(trigger)]})
    assert (answer.status_code, parsed("Converse", answer)["Error"]["Code"]) == (status, kind)


def test_a_signature_is_computed_again(upstream: Callable[[str], Any]) -> None:
    vendor, body = upstream("bedrock"), {"messages": [user("Hi")]}
    assert call(vendor, "converse", body).status_code == 200
    wrong_secret = call(vendor, "converse", body, credentials=Credentials("AKIDEXAMPLE", "wrong"))
    assert wrong_secret.headers["x-amzn-errortype"].startswith("InvalidSignatureException")
    unknown = call(vendor, "converse", body, credentials=Credentials("AKIDOTHER", "wrong"))
    assert unknown.headers["x-amzn-errortype"].startswith("UnrecognizedClientException")
    assert call(vendor, "converse", body, region="eu-west-1").status_code == 403
    url = f"{vendor.url}/model/{quote(NOVA, safe='')}/converse"
    bearer = httpx2.post(url, json=body, headers={"authorization": "Bearer bedrock-api-key"})
    assert bearer.status_code == 200
    assert httpx2.post(url, json=body, headers={"authorization": "Bearer other"}).status_code == 403


def test_a_body_changed_after_signing_is_refused(upstream: Callable[[str], Any]) -> None:
    vendor = upstream("bedrock")
    url = f"{vendor.url}/model/{quote(CLAUDE, safe='')}/converse"
    request = AWSRequest(method="POST", url=url, data=b'{"messages":[]}', headers={"content-type": "application/json"})
    SigV4Auth(GOOD, "bedrock", "us-east-1").add_auth(request)
    changed = httpx2.post(url, content=b'{"messages": []}', headers=dict(request.headers.items()))
    assert changed.status_code == 403


@pytest.mark.parametrize(
    "wrong",
    [
        {"topK": 3},
        {"messages": [{"role": "assistant", "content": [{"text": "a"}]}]},
        {"messages": [user("a"), user("b")]},
        {"messages": [user(" ")]},
        {"messages": [user("a"), {"role": "assistant", "content": [{"text": "b"}]}]} | {"system": []},
        {"inferenceConfig": {"temperature": 0.5, "topP": 0.5}},
        {"inferenceConfig": {"temperature": 1.5}},
        {"toolConfig": {"tools": [{"toolSpec": {**TOOL["toolSpec"], "description": ""}}]}},
        {"toolConfig": {"tools": [TOOL], "toolChoice": {"none": {}}}},
        {
            "messages": [
                {"role": "user", "content": [{"document": {"format": "pdf", "name": "a", "source": {"bytes": PIXEL}}}]}
            ]
        },
        {"messages": [{"role": "user", "content": [{"image": {"format": "heic", "source": {"bytes": PIXEL}}}]}]},
        {
            "messages": [
                user("a"),
                {"role": "assistant", "content": [{"toolUse": {"toolUseId": "c1", "name": "f", "input": {}}}]},
                {"role": "user", "content": [{"toolResult": {"toolUseId": "c1", "content": [{"text": "b"}]}}]},
            ]
        },
    ],
)
def test_converse_refuses_what_the_vendor_refuses(upstream: Callable[[str], Any], wrong: Any) -> None:
    vendor = upstream("bedrock")
    answer = call(vendor, "converse", {"messages": [user("Hello")], **wrong})
    assert answer.status_code == 400, answer.text
    assert vendor.billed == []


def test_newer_claudes_need_an_inference_profile(upstream: Callable[[str], Any]) -> None:
    bare = call(upstream("bedrock"), "converse", {"messages": [user("Hi")]}, model=CLAUDE.removeprefix("us."))
    assert "inference profile" in bare.json()["message"]


def test_counts_tokens_for_the_bare_model(upstream: Callable[[str], Any]) -> None:
    body = {"input": {"converse": {"messages": [user("a b c")]}}}
    assert call(upstream("bedrock"), "count-tokens", body).status_code == 400  # a profile is not a model
    model = "anthropic.claude-3-7-sonnet-20250219-v1:0"
    assert parsed("CountTokens", call(upstream("bedrock"), "count-tokens", body, model=model))["inputTokens"] == 3
