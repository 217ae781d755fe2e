"""google-genai reads what our Gemini and Vertex upstreams write; google-auth gets its token from Vertex's endpoint."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from google import genai
from google.auth.transport.requests import Request as AuthRequest
from google.genai import errors, types
from google.oauth2 import service_account
from pydantic import BaseModel

FLASH = "gemini-2.5-flash"
GENERATION_3 = "gemini-3-pro-preview"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
BOTH_CITIES = '[[tool:get_weather {"city":"Rome"}]][[tool:get_weather {"city":"Oslo"}]] Weather?'


class City(BaseModel):
    name: str
    people: int


def get_weather(city: str) -> str:
    """Current weather."""
    return f"18 C in {city}"


@pytest.fixture
def client(upstream: Callable[[str], Any]) -> Iterator[genai.Client]:
    with genai.Client(api_key="upstream-key", http_options={"base_url": upstream("gemini").url}) as client:
        yield client


@pytest.fixture
def vertex(upstream: Callable[[str], Any]) -> Iterator[genai.Client]:
    vendor = upstream("vertex")
    account = service_account.Credentials.from_service_account_info(
        vendor.service_account, scopes=["https://www.googleapis.com/auth/cloud-platform"]
    )
    with genai.Client(
        vertexai=True,
        project=vendor.project,
        location="us-central1",
        credentials=account,
        http_options={"base_url": vendor.url},
    ) as client:
        yield client


@pytest.fixture(params=["gemini", "vertex"])
def either(request: pytest.FixtureRequest) -> genai.Client:
    found: genai.Client = request.getfixturevalue("client" if request.param == "gemini" else "vertex")
    return found


def test_answers_with_text_and_usage(either: genai.Client) -> None:
    answer = either.models.generate_content(model=FLASH, contents="Good morning")
    assert answer.text == "You said: Good morning."
    assert answer.candidates and answer.candidates[0].finish_reason == types.FinishReason.STOP
    assert answer.usage_metadata and answer.usage_metadata.total_token_count == 6


def test_stream_is_the_same_answer_in_pieces(either: genai.Client) -> None:
    chunks = list(either.models.generate_content_stream(model=FLASH, contents="[[dribble:7]] one two"))
    assert "".join(chunk.text or "" for chunk in chunks) == "You said: one two."
    assert len(chunks) > 3


def test_thoughts_come_only_when_they_are_asked_for(client: genai.Client) -> None:
    shown = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True))
    answer = client.models.generate_content(model=FLASH, contents="[[think:I wonder]] Hi", config=shown)
    assert answer.candidates and answer.candidates[0].content and answer.candidates[0].content.parts
    assert [part.thought for part in answer.candidates[0].content.parts] == [True, None]
    hidden = client.models.generate_content(model=FLASH, contents="[[think:I wonder]] Hi")
    assert hidden.usage_metadata and hidden.usage_metadata.thoughts_token_count == 2
    assert hidden.candidates and hidden.candidates[0].content and len(hidden.candidates[0].content.parts or []) == 1


@pytest.mark.parametrize("model", [FLASH, GENERATION_3])
def test_functions_are_called_and_answered_by_themselves(client: genai.Client, model: str) -> None:
    chat = client.chats.create(model=model, config=types.GenerateContentConfig(tools=[get_weather]))
    assert chat.send_message(BOTH_CITIES).text == "The tools said: 18 C in Rome; 18 C in Oslo"


def test_a_history_is_remembered(client: genai.Client) -> None:
    chat = client.chats.create(model=FLASH)
    for _ in chat.send_message_stream("First things first"):
        pass
    assert chat.send_message("[[recall]]").text == "You began with: First things first"


def test_structured_output_and_images(client: genai.Client) -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=list[City])
    answer = client.models.generate_content(model=FLASH, contents="Cities", config=config)
    assert answer.parsed == [City(name="sample", people=1)]
    image = types.Part.from_bytes(data=PIXEL, mime_type="image/png")
    assert (
        client.models.generate_content(model=FLASH, contents=[image, "Look"]).text == "You said: Look. I see image/png."
    )


def test_counts_embeds_and_lists(client: genai.Client) -> None:
    assert client.models.count_tokens(model=FLASH, contents="a b c").total_tokens == 3
    embedded = client.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])
    assert embedded.embeddings and len(embedded.embeddings) == 2
    assert f"models/{FLASH}" in [model.name for model in client.models.list()]
    assert client.models.get(model=FLASH).output_token_limit == 65536


@pytest.mark.parametrize(
    ("trigger", "code", "status"),
    [
        ("[[error:400]]", 400, "INVALID_ARGUMENT"),
        ("[[error:403]]", 403, "PERMISSION_DENIED"),
        ("[[error:404]]", 404, "NOT_FOUND"),
        ("[[error:429 retry-after=7]]", 429, "RESOURCE_EXHAUSTED"),
        ("[[error:503]]", 503, "UNAVAILABLE"),
    ],
)
def test_fails_as_asked(either: genai.Client, trigger: str, code: int, status: str) -> None:
    with pytest.raises(errors.APIError) as failed:
        either.models.generate_content(model=FLASH, contents=trigger)
    assert (failed.value.code, failed.value.status) == (code, status)
    with pytest.raises(errors.APIError):
        list(either.models.generate_content_stream(model=FLASH, contents=trigger))


def test_breaks_in_the_middle_in_words_or_without(client: genai.Client) -> None:
    with pytest.raises(errors.APIError, match="overloaded"):
        list(client.models.generate_content_stream(model=FLASH, contents="[[midstream-error:after=2]] a b c"))
    with pytest.raises(httpx2.RemoteProtocolError):
        list(client.models.generate_content_stream(model=FLASH, contents="[[cut:after=2]] a b c"))


def test_says_how_it_ended(client: genai.Client) -> None:
    def ended(prompt: str, **config: Any) -> Any:
        asked = types.GenerateContentConfig(**config)
        answer = client.models.generate_content(model=FLASH, contents=prompt, config=asked)
        return answer.candidates[0].finish_reason if answer.candidates else answer.prompt_feedback

    assert ended("[[long:9]]", max_output_tokens=3) == types.FinishReason.MAX_TOKENS
    assert ended("[[safety]]") == types.FinishReason.SAFETY
    assert ended('[[rawtool:get_weather {"city":]]', tools=[types.Tool(function_declarations=[WEATHER])]) == (
        types.FinishReason.MALFORMED_FUNCTION_CALL
    )
    assert ended("[[blocked]]").block_reason == types.BlockedReason.PROHIBITED_CONTENT


WEATHER = types.FunctionDeclaration(
    name="get_weather",
    parameters=types.Schema(type=types.Type.OBJECT, properties={"city": types.Schema(type=types.Type.STRING)}),
)
CALL = {"functionCall": {"name": "f", "args": {}}}
RESULT = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": "a"}}}]}
ASKED = {"role": "user", "parts": [{"text": "a"}]}


def post(vendor: Any, body: Any, model: str = FLASH, key: str = "upstream-key") -> httpx2.Response:
    url = f"{vendor.url}/v1beta/models/{model}:generateContent"
    return httpx2.post(url, json=body, headers={"x-goog-api-key": key})


@pytest.mark.parametrize(
    ("model", "wrong", "said"),
    [
        (FLASH, {"contents": []}, "contents is not specified"),
        (FLASH, {"foo": 1}, 'Unknown name "foo"'),
        (FLASH, {"labels": {"a": "b"}}, 'Unknown name "labels"'),
        (FLASH, {"generationConfig": {"top_k": 3, "nonsense": 1}}, "Unknown name \"nonsense\" at 'generation_config'"),
        (FLASH, {"generationConfig": {"thinkingConfig": {"thinkingBudget": 1, "thinkingLevel": "LOW"}}}, "only one"),
        (FLASH, {"generationConfig": {"responseSchema": {"type": "STRING"}}}, "response_mime_type"),
        (FLASH, {"contents": [{"role": "system", "parts": [{"text": "a"}]}]}, "valid role"),
        (FLASH, {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "!"}}]}]}, "Base64"),
        (FLASH, {"contents": [ASKED, {"role": "model", "parts": [CALL]}, ASKED]}, "number of function response parts"),
        (FLASH, {"toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["f"]}}}, "mode should be ANY"),
        (
            GENERATION_3,
            {"contents": [ASKED, {"role": "model", "parts": [CALL]}, RESULT]},
            "missing a thought_signature",
        ),
        (
            GENERATION_3,
            {"contents": [ASKED, {"role": "model", "parts": [{**CALL, "thoughtSignature": "dmVydGV4"}]}, RESULT]},
            "Corrupted",
        ),
    ],
)
def test_refuses_what_google_refuses(upstream: Callable[[str], Any], model: str, wrong: Any, said: str) -> None:
    vendor = upstream("gemini")
    answer = post(vendor, {"contents": [ASKED], **wrong}, model)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert vendor.billed == []


def test_takes_the_documented_dummy_for_a_foreign_call(upstream: Callable[[str], Any]) -> None:
    signed = {**CALL, "thoughtSignature": "skip_thought_signature_validator"}
    answer = post(upstream("gemini"), {"contents": [ASKED, {"role": "model", "parts": [signed]}, RESULT]}, GENERATION_3)
    assert answer.status_code == 200


def test_streams_events_with_crlf_and_an_array_without_alt(upstream: Callable[[str], Any]) -> None:
    vendor = upstream("gemini")
    url, headers = f"{vendor.url}/v1beta/models/{FLASH}:streamGenerateContent", {"x-goog-api-key": "upstream-key"}
    events = httpx2.post(url, params={"alt": "sse"}, json={"contents": [ASKED]}, headers=headers)
    assert events.content.count(b"\r\n\r\n") == 4
    array = httpx2.post(url, json={"contents": [ASKED]}, headers=headers)
    assert len(array.json()) == 4


def test_a_key_that_is_wrong_or_missing(upstream: Callable[[str], Any]) -> None:
    wrong = post(upstream("gemini"), {"contents": [ASKED]}, key="wrong")
    assert (wrong.status_code, wrong.json()["error"]["details"][0]["reason"]) == (400, "API_KEY_INVALID")
    assert post(upstream("gemini"), {"contents": [ASKED]}, key="").status_code == 403


# ── Vertex ──


def test_vertex_gives_a_token_only_for_a_good_signature(upstream: Callable[[str], Any]) -> None:
    vendor = upstream("vertex")
    info = vendor.service_account
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    good = service_account.Credentials.from_service_account_info(info, scopes=scopes)
    good.refresh(AuthRequest())
    assert good.token in vendor.tokens
    other = service_account.Credentials.from_service_account_info({**info, "client_email": "x@y"}, scopes=scopes)
    with pytest.raises(Exception, match="invalid_grant"):
        other.refresh(AuthRequest())


def test_vertex_takes_labels_and_refuses_what_only_the_other_knows(upstream: Callable[[str], Any]) -> None:
    vendor = upstream("vertex")
    vendor.tokens.append("a-token")
    url = f"{vendor.url}/v1/projects/test-project/locations/global/publishers/google/models/{FLASH}:generateContent"

    def status(body: Any, token: str = "a-token") -> int:
        return httpx2.post(url, json=body, headers={"authorization": f"Bearer {token}"}).status_code

    assert status({"contents": [ASKED], "labels": {"team": "a"}}) == 200
    assert status({"contents": [ASKED], "store": True}) == 400
    assert status({"contents": [{"parts": [{"text": "a"}]}]}) == 400
    assert status({"contents": [ASKED]}, token="forged") == 401


def test_vertex_embeds_by_predict_for_older_models(upstream: Callable[[str], Any]) -> None:
    vendor = upstream("vertex")
    vendor.tokens.append("a-token")
    url = f"{vendor.url}/v1/projects/test-project/locations/global/publishers/google/models/text-embedding-005:predict"
    body = {"instances": [{"content": "a", "task_type": "RETRIEVAL_QUERY"}], "parameters": {"outputDimensionality": 4}}
    answer = httpx2.post(url, json=body, headers={"authorization": "Bearer a-token"})
    assert len(answer.json()["predictions"][0]["embeddings"]["values"]) == 4
