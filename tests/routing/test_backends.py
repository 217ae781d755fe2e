"""Each kind's addresses, headers and last word on the body, as tables; tokens and signatures over real sockets."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from routing import tokens
from routing.backends import BACKENDS, bedrock, vertex
from routing.backends.base import BadOption, Endpoint
from routing.errors import UpstreamError

KEY = {"api_key": "k-1"}


def endpoint(kind: str, model: str = "m", base_url: str | None = None, **more: Any) -> Endpoint:
    backend = BACKENDS[kind]
    fields = {"options": {}, "credential": KEY, **more}
    return Endpoint(kind=kind, base_url=backend.base_url if base_url is None else base_url, model=model, **fields)


GOOGLE = "https://generativelanguage.googleapis.com"
VERTEX = {"project": "p", "location": "europe-west4"}
PLACE = "https://europe-west4-aiplatform.googleapis.com/v1/projects/p/locations/europe-west4"
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
AWS = "https://bedrock-runtime.us-east-1.amazonaws.com/model"
TOKEN = {"access_token": "t"}
BEARER = {"bearer_token": "t"}
URLS = [
    (endpoint("gemini"), "generate", f"{GOOGLE}/v1beta/models/m:generateContent"),
    (endpoint("gemini"), "stream", f"{GOOGLE}/v1beta/models/m:streamGenerateContent?alt=sse"),
    (endpoint("gemini"), "count", f"{GOOGLE}/v1beta/models/m:countTokens"),
    (endpoint("gemini"), "embed", f"{GOOGLE}/v1beta/models/m:batchEmbedContents"),
    (endpoint("gemini", base_url="http://h/v1alpha"), "generate", "http://h/v1alpha/models/m:generateContent"),
    (endpoint("gemini", "models/m"), "generate", f"{GOOGLE}/v1beta/models/m:generateContent"),
    (endpoint("gemini", "tunedModels/m"), "generate", f"{GOOGLE}/v1beta/tunedModels/m:generateContent"),
    (endpoint("gemini", "a/../b?c#d"), "generate", f"{GOOGLE}/v1beta/models/a%2F..%2Fb%3Fc%23d:generateContent"),
    (endpoint("openai"), "generate", "https://api.openai.com/v1/chat/completions"),
    (endpoint("openai"), "embed", "https://api.openai.com/v1/embeddings"),
    (endpoint("openai", base_url="http://h:8/v1"), "stream", "http://h:8/v1/chat/completions"),
    (endpoint("openai_responses"), "stream", "https://api.openai.com/v1/responses"),
    (endpoint("openai_responses"), "count", "https://api.openai.com/v1/responses/input_tokens"),
    (endpoint("gemini_openai"), "generate", f"{GOOGLE}/v1beta/openai/chat/completions"),
    (endpoint("gemini_openai", base_url=GOOGLE), "embed", f"{GOOGLE}/v1beta/openai/embeddings"),
    (endpoint("gemini_openai", base_url=f"{GOOGLE}/v1beta"), "generate", f"{GOOGLE}/v1beta/openai/chat/completions"),
    (endpoint("anthropic"), "generate", "https://api.anthropic.com/v1/messages"),
    (endpoint("anthropic", base_url="http://h/v1"), "count", "http://h/v1/messages/count_tokens"),
    (endpoint("azure_openai", "d", "https://r.x"), "generate", "https://r.x/openai/v1/chat/completions"),
    (endpoint("azure_openai", "d", "https://r.x/openai/v1"), "embed", "https://r.x/openai/v1/embeddings"),
    (endpoint("azure_openai", "d", "https://r.x/openai", options={"api": "responses"}), "stream", "https://r.x/openai/v1/responses"),
    (endpoint("azure_openai", "d", "https://r.x", options={"api_version": "preview"}), "stream", "https://r.x/openai/v1/chat/completions?api-version=preview"),
    (endpoint("azure_openai", "d 1", "https://r.x", options={"api_version": "2024-10-21"}), "stream", "https://r.x/openai/deployments/d%201/chat/completions?api-version=2024-10-21"),
    (endpoint("azure_openai", "d", "https://r.x", options={"api_version": "2025-03-01-preview", "api": "responses"}), "stream", "https://r.x/openai/responses?api-version=2025-03-01-preview"),
    (endpoint("azure_openai", "d", "https://r.x", options={"api_version": "2024-10-21", "api": "responses"}), "embed", "https://r.x/openai/deployments/d/embeddings?api-version=2024-10-21"),
    (endpoint("vertex", options=VERTEX, credential=TOKEN), "generate", f"{PLACE}/publishers/google/models/m:generateContent"),
    (endpoint("vertex", options=VERTEX, credential=TOKEN), "stream", f"{PLACE}/publishers/google/models/m:streamGenerateContent?alt=sse"),
    (endpoint("vertex", options=VERTEX, credential=TOKEN), "count", f"{PLACE}/publishers/google/models/m:countTokens"),
    (endpoint("vertex", "text-embedding-005", options=VERTEX, credential=TOKEN), "embed", f"{PLACE}/publishers/google/models/text-embedding-005:predict"),
    (endpoint("vertex", "gemini-embedding-001", options=VERTEX, credential=TOKEN), "embed", f"{PLACE}/publishers/google/models/gemini-embedding-001:predict"),
    (endpoint("vertex", "gemini-embedding-2", options=VERTEX, credential=TOKEN), "embed", f"{PLACE}/publishers/google/models/gemini-embedding-2:embedContent"),
    (endpoint("vertex", "endpoints/77", options=VERTEX, credential=TOKEN), "generate", f"{PLACE}/endpoints/77:generateContent"),
    (endpoint("vertex", options={"project": "p"}, credential=TOKEN), "generate", "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/google/models/m:generateContent"),
    (endpoint("vertex", options={"project": "p", "location": "eu"}, credential=TOKEN), "generate", "https://aiplatform.eu.rep.googleapis.com/v1/projects/p/locations/eu/publishers/google/models/m:generateContent"),
    (endpoint("vertex", options={"api_version": "v1beta1"}), "generate", "https://aiplatform.googleapis.com/v1beta1/publishers/google/models/m:generateContent"),
    (endpoint("vertex", base_url="http://h/v1beta1", options={"project": "p"}, credential=TOKEN), "generate", "http://h/v1beta1/projects/p/locations/global/publishers/google/models/m:generateContent"),
    (endpoint("vertex", "claude-x", options=VERTEX | {"publisher": "anthropic"}, credential=TOKEN), "generate", f"{PLACE}/publishers/anthropic/models/claude-x:rawPredict"),
    (endpoint("vertex", "claude-x@1", options=VERTEX | {"publisher": "anthropic"}, credential=TOKEN), "stream", f"{PLACE}/publishers/anthropic/models/claude-x%401:streamRawPredict"),
    (endpoint("vertex", "claude-x", options=VERTEX | {"publisher": "anthropic"}, credential=TOKEN), "count", f"{PLACE}/publishers/anthropic/models/count-tokens:rawPredict"),
    (endpoint("bedrock", CLAUDE, options={"region": "us-east-1"}, credential=BEARER), "generate", f"{AWS}/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke"),
    (endpoint("bedrock", CLAUDE, options={"region": "us-east-1"}, credential=BEARER), "stream", f"{AWS}/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke-with-response-stream"),
    (endpoint("bedrock", CLAUDE, options={"region": "us-east-1"}, credential=BEARER), "count", f"{AWS}/anthropic.claude-sonnet-4-5-20250929-v1%3A0/count-tokens"),
    (endpoint("bedrock", CLAUDE, options={"region": "us-east-1", "api": "converse"}, credential=BEARER), "stream", f"{AWS}/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream"),
    (endpoint("bedrock", "amazon.nova-pro-v1:0", options={"region": "cn-north-1"}, credential=BEARER), "generate", "https://bedrock-runtime.cn-north-1.amazonaws.com.cn/model/amazon.nova-pro-v1%3A0/converse"),
    (endpoint("bedrock", "arn:aws:bedrock:us-east-1:1:x/y", "http://h", options={"region": "us-east-1"}, credential=BEARER), "generate", "http://h/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ax%2Fy/converse"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "action", "url"), [pytest.param(*row, id=f"{row[0].kind}-{row[1]}-{number}") for number, row in enumerate(URLS)])  # fmt: skip
def test_an_action_has_its_url(place: Endpoint, action: Any, url: str) -> None:
    backend = BACKENDS[place.kind]
    backend.check(place)
    assert action in backend.actions
    assert backend.url(place, action) == url


HEADERS = [
    (endpoint("gemini"), {"x-goog-api-key": "k-1"}),
    (endpoint("openai"), {"authorization": "Bearer k-1"}),
    (endpoint("openai", credential={}), {}),
    (endpoint("openai", options={"organization": "o", "project": "p"}), {"authorization": "Bearer k-1", "openai-organization": "o", "openai-project": "p"}),
    (endpoint("openai_responses"), {"authorization": "Bearer k-1"}),
    (endpoint("gemini_openai"), {"authorization": "Bearer k-1"}),
    (endpoint("azure_openai", base_url="https://r.x"), {"api-key": "k-1"}),
    (endpoint("anthropic"), {"x-api-key": "k-1", "anthropic-version": "2023-06-01"}),
    (endpoint("anthropic", options={"anthropic_version": "2099-01-01", "anthropic_beta": "a,b"}), {"x-api-key": "k-1", "anthropic-version": "2099-01-01", "anthropic-beta": "a,b"}),
    (endpoint("vertex", options=VERTEX, credential=TOKEN), {"authorization": "Bearer t"}),
    (endpoint("vertex"), {"x-goog-api-key": "k-1"}),
    (endpoint("bedrock", options={"region": "us-east-1"}, credential=BEARER), {"authorization": "Bearer t"}),
]  # fmt: skip
COMMON = {"content-type", "accept", "accept-encoding"}


@pytest.mark.parametrize(("place", "headers"), [pytest.param(*row, id=f"{row[0].kind}-{number}") for number, row in enumerate(HEADERS)])  # fmt: skip
async def test_the_credential_travels_in_its_own_headers_and_nowhere_else(
    place: Endpoint, headers: dict[str, str]
) -> None:
    request = await BACKENDS[place.kind].prepare(place, {"a": 1}, "generate")
    assert {name: value for name, value in request.headers.items() if name not in COMMON} == headers
    assert request.headers["accept-encoding"] == "identity"
    assert "k-1" not in request.url
    assert "k-1" not in repr(request) + repr(place)


async def test_extra_headers_are_sent_but_never_replace_the_credential() -> None:
    place = endpoint("openai", headers={"x-team": "a", "authorization": "Bearer other"})
    request = await BACKENDS["openai"].prepare(place, b"{}", "stream")
    assert request.headers["x-team"] == "a"
    assert request.headers["authorization"] == "Bearer k-1"
    assert request.headers["accept"] == "text/event-stream"
    assert request.body == b"{}"


V = VERTEX | {"publisher": "anthropic"}
PAYLOADS = [
    (endpoint("openai"), "generate", {"model": "m"}, {"model": "m"}),
    (endpoint("gemini"), "embed", {"requests": [{"model": "models/public", "content": 1}]}, {"requests": [{"model": "models/m", "content": 1}]}),
    (endpoint("gemini"), "count", {"generateContentRequest": {"model": "models/x", "contents": []}}, {"generateContentRequest": {"model": "models/m", "contents": []}}),
    (endpoint("vertex", options=VERTEX), "count", {"generateContentRequest": {"model": "models/x", "contents": []}}, {"contents": []}),
    (endpoint("vertex", options=V), "stream", {"model": "m", "max_tokens": 1, "stream": True}, {"anthropic_version": "vertex-2023-10-16", "max_tokens": 1, "stream": True}),
    (endpoint("vertex", "claude-x", options=V), "count", {"messages": []}, {"messages": [], "model": "claude-x"}),
    (endpoint("vertex", "text-embedding-005", options=VERTEX), "embed", {"requests": [{"model": "models/x", "content": {"parts": [{"text": "a"}, {"text": "b"}]}, "taskType": "CLUSTERING", "outputDimensionality": 8}]}, {"instances": [{"content": "ab", "task_type": "CLUSTERING"}], "parameters": {"outputDimensionality": 8}}),
    (endpoint("vertex", "gemini-embedding-2", options=VERTEX), "embed", {"requests": [{"model": "models/x", "content": 1}]}, {"content": 1}),
    (endpoint("bedrock", CLAUDE), "stream", {"model": "m", "max_tokens": 1, "stream": True}, {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 1}),
    (endpoint("bedrock", CLAUDE, options={"anthropic_beta": "a, b"}), "generate", {"max_tokens": 1}, {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 1, "anthropic_beta": ["a", "b"]}),
    (endpoint("bedrock", "amazon.nova"), "generate", {"modelId": "x", "messages": []}, {"messages": []}),
    (endpoint("bedrock", "amazon.nova"), "count", {"messages": []}, {"input": {"converse": {"messages": []}}}),
]  # fmt: skip


@pytest.mark.parametrize(("place", "action", "given", "sent"), [pytest.param(*row, id=f"{row[0].kind}-{row[1]}-{number}") for number, row in enumerate(PAYLOADS)])  # fmt: skip
def test_the_last_word_on_a_body_never_changes_its_input(
    place: Endpoint, action: Any, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    before = json.dumps(given)
    assert BACKENDS[place.kind].payload(place, given, action) == sent
    assert json.dumps(given) == before


def test_bedrock_counts_what_it_would_invoke() -> None:
    sent = BACKENDS["bedrock"].payload(endpoint("bedrock", CLAUDE), {"messages": [1]}, "count")
    inner = json.loads(base64.b64decode(sent["input"]["invokeModel"]["body"]))
    assert inner == {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 1, "messages": [1]}


def test_vertex_says_so_when_a_model_embeds_one_content_per_call() -> None:
    place = endpoint("vertex", "gemini-embedding-2", options=VERTEX)
    with pytest.raises(UpstreamError) as error:
        BACKENDS["vertex"].payload(place, {"requests": [{"content": 1}, {"content": 2}]}, "embed")
    assert error.value.kind == "invalid"
    assert BACKENDS["vertex"].embeds_at_once(place) == 1


@pytest.mark.parametrize(
    "requests",
    [
        [{"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}}],
        [{"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 4}, {"content": {"parts": [{"text": "b"}]}}],
    ],
)
def test_vertex_refuses_what_predict_could_only_embed_in_part(requests: list[dict[str, Any]]) -> None:
    place = endpoint("vertex", "text-embedding-005", options=VERTEX)
    with pytest.raises(UpstreamError) as error:
        BACKENDS["vertex"].payload(place, {"requests": requests}, "embed")
    assert error.value.kind == "invalid"


def test_vertex_hears_what_an_embedding_is_for_in_either_place() -> None:
    place = endpoint("vertex", "text-embedding-005", options=VERTEX)
    config = {"taskType": "CLUSTERING", "outputDimensionality": 8, "autoTruncate": False}
    flat = {"content": {"parts": [{"text": "a"}]}, **config}
    nested = {"content": {"parts": [{"text": "a"}]}, "embedContentConfig": config}
    sent = [BACKENDS["vertex"].payload(place, {"requests": [each]}, "embed") for each in (flat, nested)]
    assert sent[0] == sent[1]
    assert sent[0]["parameters"] == {"outputDimensionality": 8, "autoTruncate": False}


LANGUAGES = [
    (endpoint("azure_openai"), "chat_completions"), (endpoint("azure_openai", options={"api": "responses"}), "responses"),
    (endpoint("vertex"), "gemini"), (endpoint("vertex", options=V), "anthropic_messages"),
    (endpoint("bedrock", CLAUDE), "anthropic_messages"), (endpoint("bedrock", "amazon.nova"), "bedrock_converse"),
    (endpoint("bedrock", CLAUDE, options={"api": "converse"}), "bedrock_converse"),
    (endpoint("bedrock", "arn:x", options={"api": "invoke"}), "anthropic_messages"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "language"), LANGUAGES)
def test_some_kinds_speak_by_option(place: Endpoint, language: str) -> None:
    assert BACKENDS[place.kind].speaks(place) == language


BAD = [
    (endpoint("openai_responses", credential={}), "no credential"),
    (endpoint("gemini", credential={"token": "x"}), "no token"),
    (endpoint("gemini", headers={"x y": "1"}), "extra header"),
    (endpoint("gemini", headers={"x": "1\r\ny: 2"}), "extra header"),
    (endpoint("gemini", headers={"transfer-encoding": "chunked"}), "extra header"),
    (endpoint("gemini", headers={"Host": "elsewhere"}), "extra header"),
    (endpoint("azure_openai"), "base URL is missing"),
    (endpoint("azure_openai", base_url="https://r.x", options={"api": "embed"}), "must be one of: chat, responses"),
    (endpoint("azure_openai", base_url="https://r.x", options={"api_version": "1&x=y"}), "api_version"),
    (endpoint("azure_openai", base_url="https://r.x", credential={"tenant_id": "t", "client_id": "c"}), "lacks client_secret"),
    (endpoint("azure_openai", base_url="https://r.x", credential={"api_key": "k", "tenant_id": "t"}), "not several"),
    (endpoint("vertex", options={"location": "us-central1"}, credential=TOKEN), "project is missing"),
    (endpoint("vertex", options={"project": "p", "location": "evil.example/#"}, credential=TOKEN), "location"),
    (endpoint("vertex", options={"project": "p", "publisher": "x"}, credential=TOKEN), "publisher"),
    (endpoint("vertex", options={"project": "p"}, credential={"service_account": "{}"}), "JSON key"),
    (endpoint("vertex", options={"project": "p"}, credential={"service_account": '{"type":"external_account"}'}), "JSON key"),
    (endpoint("vertex", options={"project": "p"}, credential={"service_account": '{"type":"service_account"}'}), "lacks client_email"),
    (endpoint("bedrock", credential=BEARER), "region is missing"),
    (endpoint("bedrock", options={"region": "x.evil.example/"}, credential=BEARER), "region"),
    (endpoint("bedrock", options={"region": "us-east-1"}, credential={"aws_access_key_id": "a"}), "lacks aws_secret"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "why"), [pytest.param(*row, id=f"{row[0].kind}-{number}") for number, row in enumerate(BAD)])  # fmt: skip
def test_a_connection_that_cannot_be_right_says_why(place: Endpoint, why: str) -> None:
    with pytest.raises(BadOption, match=why):
        BACKENDS[place.kind].check(place)


# ---- AWS signatures


def test_a_signature_is_what_aws_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore import auth  # noqa: PLC0415 - as in the backend
    from botocore.credentials import Credentials  # noqa: PLC0415 - as in the backend

    monkeypatch.setattr(auth, "get_current_datetime", lambda **ignored: datetime.datetime(2026, 11, 22, 12))
    signed = bedrock.sign(
        Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        "us-east-1",
        "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream",
        {"Accept": "application/json", "Content-Type": "application/json"},
        b'{"messages":[]}',
    )
    assert signed["authorization"].endswith(
        "SignedHeaders=accept;content-type;host;x-amz-date,"
        " Signature=45b6b0e944a3e17c7baeb0f416fe65682cf016fd251e20ec19156528bd688cbc"
    )


async def test_bedrock_signs_the_bytes_it_sends_with_the_session_token() -> None:
    keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "s", "aws_session_token": "st"}
    place = endpoint("bedrock", CLAUDE, options={"region": "eu-west-1"}, credential=keys, headers={"x-team": "a"})
    request = await BACKENDS["bedrock"].prepare(place, {"messages": []}, "stream")
    assert request.headers["x-amz-security-token"] == "st"
    assert "x-team" not in request.headers["authorization"]
    assert "eu-west-1/bedrock/aws4_request" in request.headers["authorization"]
    assert request.headers["accept"] == "application/vnd.amazon.eventstream"
    assert request.headers["x-team"] == "a"


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Without credentials of its own, and without a metadata server to ask."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(bedrock, "_chain", bedrock._Chain())
    vertex._default_credentials.cache_clear()
    return monkeypatch


async def test_the_credential_chain_is_this_machines_own(bare_machine: pytest.MonkeyPatch) -> None:
    place = endpoint("bedrock", CLAUDE, options={"region": "us-east-1"}, credential={"chain": "true"})
    with pytest.raises(UpstreamError) as error:
        await BACKENDS["bedrock"].prepare(place, b"{}", "generate")
    assert (error.value.kind, error.value.sent) == ("credential", False)
    bare_machine.setenv("AWS_ACCESS_KEY_ID", "AKIDMACHINE")
    bare_machine.setenv("AWS_SECRET_ACCESS_KEY", "s")
    request = await BACKENDS["bedrock"].prepare(place, b"{}", "generate")
    assert "Credential=AKIDMACHINE/" in request.headers["authorization"]


# ---- tokens


class TokenServer:
    """A token endpoint in a thread of its own, because tokens are fetched in threads."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.status = 200
        self.lifetime = 3600
        self.may_answer = threading.Event()
        self.may_answer.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                outer.may_answer.wait(10)
                outer.paths.append(self.path)
                outer.forms.append({name: values[0] for name, values in parse_qs(body).items()})
                said: dict[str, Any] = {"error": "invalid_client", "error_description": "secret s3cr3t"}
                if outer.status == 200:
                    token = f"token-{len(outer.forms)}"
                    said = {"access_token": token, "expires_in": outer.lifetime, "token_type": "Bearer"}
                text = json.dumps(said).encode()
                self.send_response(outer.status)
                self.send_header("content-length", str(len(text)))
                self.send_header("content-type", "application/json")
                if outer.status == 302:
                    self.send_header("location", "http://127.0.0.1:1/")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def issuer() -> Iterator[TokenServer]:
    tokens.forget()
    server = TokenServer()
    yield server
    server.close()
    tokens.forget()


def entra(issuer: TokenServer, secret: str = "s3cr3t", allow_private: bool = True) -> Endpoint:
    credential = {"tenant_id": "t", "client_id": "c", "client_secret": secret, "authority": issuer.url}
    return endpoint("azure_openai", "d", "https://r.x", credential=credential, allow_private=allow_private)


async def bearer(place: Endpoint) -> str:
    return (await BACKENDS[place.kind].prepare(place, b"{}", "generate")).headers["authorization"]


async def test_an_entra_token_is_fetched_once_for_many_calls(issuer: TokenServer) -> None:
    found = await asyncio.gather(*(bearer(entra(issuer)) for _ in range(20)))
    assert set(found) == {"Bearer token-1"}
    assert issuer.paths == ["/t/oauth2/v2.0/token"]
    assert issuer.forms == [
        {"grant_type": "client_credentials", "client_id": "c", "client_secret": "s3cr3t", "scope": "https://cognitiveservices.azure.com/.default"}
    ]  # fmt: skip
    assert await bearer(entra(issuer, "another")) == "Bearer token-2"


async def test_a_token_about_to_expire_is_renewed_while_the_old_one_is_still_used(issuer: TokenServer) -> None:
    issuer.lifetime = 100
    assert await bearer(entra(issuer)) == "Bearer token-1"
    issuer.may_answer.clear()
    assert await bearer(entra(issuer)) == "Bearer token-1"  # does not wait
    renewing = list(tokens._fetching.values())
    issuer.may_answer.set()
    await asyncio.gather(*renewing)
    assert len(issuer.forms) == 2


async def test_a_cancelled_call_does_not_take_the_token_from_the_others(issuer: TokenServer) -> None:
    issuer.may_answer.clear()
    first = asyncio.create_task(bearer(entra(issuer)))
    await asyncio.sleep(0)
    second = asyncio.create_task(bearer(entra(issuer)))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    issuer.may_answer.set()
    assert await second == "Bearer token-1"


@pytest.mark.parametrize("status", [400, 401, 500, 302])
async def test_a_refused_token_is_the_operators_problem_and_is_not_asked_for_again_at_once(
    issuer: TokenServer, status: int
) -> None:
    issuer.status = status
    for _ in range(3):
        with pytest.raises(UpstreamError) as error:
            await bearer(entra(issuer))
        assert (error.value.kind, error.value.sent) == ("credential", False)
        assert str(status) in error.value.message
        assert "s3cr3t" not in error.value.message
    assert len(issuer.forms) == 1


async def test_a_token_endpoint_at_a_forbidden_address_is_not_asked(issuer: TokenServer) -> None:
    with pytest.raises(UpstreamError) as error:
        await bearer(entra(issuer, allow_private=False))
    assert error.value.kind == "credential"
    assert issuer.forms == []


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


async def test_a_service_account_signs_its_own_assertion_and_sends_it_to_its_token_uri(
    issuer: TokenServer, private_key: str
) -> None:
    info = {
        "type": "service_account",
        "client_email": "robot@p.iam.gserviceaccount.com",
        "private_key": private_key,
        "token_uri": f"{issuer.url}/token",
    }

    def place(allow_private: bool) -> Endpoint:
        credential = {"service_account": json.dumps(info)}
        return endpoint("vertex", options=VERTEX, credential=credential, allow_private=allow_private)

    with pytest.raises(UpstreamError) as error:
        await bearer(place(allow_private=False))
    assert (error.value.kind, issuer.forms) == ("credential", [])
    found = await asyncio.gather(*(bearer(place(allow_private=True)) for _ in range(5)))
    assert set(found) == {"Bearer token-1"}
    (form,) = issuer.forms
    assert issuer.paths == ["/token"]
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    claims = json.loads(base64.urlsafe_b64decode(form["assertion"].split(".")[1] + "=="))
    assert claims["iss"] == info["client_email"]
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    issuer.status = 401
    tokens.forget()
    with pytest.raises(UpstreamError) as refused:
        await bearer(place(allow_private=True))
    assert refused.value.kind == "credential"


async def test_application_default_credentials_are_this_machines_own(
    issuer: TokenServer, private_key: str, bare_machine: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = endpoint("vertex", options=VERTEX, credential={"adc": "true"})
    info = {
        "type": "service_account",
        "client_email": "robot@p.iam.gserviceaccount.com",
        "private_key": private_key,
        "token_uri": f"{issuer.url}/adc",
    }
    (tmp_path / "adc.json").write_text(json.dumps(info))
    bare_machine.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(UpstreamError) as error:
        await bearer(place)
    assert error.value.kind == "credential"
    tokens.forget()
    bare_machine.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "adc.json"))
    assert await bearer(place) == "Bearer token-1"
    assert issuer.paths == ["/adc"]
    vertex._default_credentials.cache_clear()
