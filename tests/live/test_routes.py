"""Every route, every verb, every refusal: Google's error object, the right status twice, and a record where a key is known."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from keys import secrets
from tests.live.world import World, embedder, recorded, saying, trigger

pytestmark = pytest.mark.live

VERSIONS = ("v1beta", "v1", "v1alpha", "v1beta1")
PREFIXES = ("", "publishers/google/", "projects/p1/locations/us-central1/publishers/google/")
ACTIONS = ("generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents")
VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
RPC = "type.googleapis.com/google.rpc."
BODIES: dict[str, Any] = {
    "generateContent": saying("Hi"),
    "streamGenerateContent": saying("Hi"),
    "countTokens": saying("Hi"),
    "embedContent": {"content": {"parts": [{"text": "Hi"}]}},
    "batchEmbedContents": {"requests": [{"content": {"parts": [{"text": "Hi"}]}}]},
}
# A model that can do every action.
ABLE = "gemini-able"


def error_of(response: httpx2.Response, code: int, status: str) -> dict[str, Any]:
    """The error of a refusal, after a look at everything that all of them have in common."""
    assert response.status_code == code, response.text
    assert response.headers["content-type"] == "application/json; charset=UTF-8"
    assert response.headers["x-request-id"]
    said = response.json()
    if isinstance(said, list):
        [said] = said
    assert set(said) == {"error"}
    error: dict[str, Any] = said["error"]
    assert set(error) <= {"code", "message", "status", "details"}
    assert (error["code"], error["status"]) == (code, status)
    assert error["message"] and "Traceback" not in error["message"]
    return error


def detail(error: dict[str, Any], kind: str) -> dict[str, Any]:
    [found] = [each for each in error.get("details", []) if each["@type"] == RPC + kind]
    return dict(found)


@pytest.fixture
def vendor(world: World) -> Any:
    """The Gemini upstream, with nothing remembered: `vendor.requests` is what this test let through."""
    return world.vendor("gemini")


# ── the routes themselves ──


@pytest.mark.parametrize(("version", "prefix"), [*product(VERSIONS, PREFIXES)])
def test_every_action_answers_under_every_version_and_prefix(world: World, version: str, prefix: str) -> None:
    headers = {"x-goog-api-key": world.keys["ci"]}
    for action in ACTIONS:
        model = ABLE if "mbed" in action else "gemini"
        answer = world.http.post(f"/{version}/{prefix}models/{model}:{action}", json=BODIES[action], headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-request-id"]
    listed = world.http.get(f"/{version}/{prefix}models?pageSize=1000", headers=headers)
    assert "models/gemini" in [model["name"] for model in listed.json()["models"]]
    assert world.http.get(f"/{version}/{prefix}models/gemini", headers=headers).json()["name"] == "models/gemini"


@pytest.mark.parametrize(("version", "prefix"), [*product(VERSIONS, PREFIXES)])
def test_every_route_refuses_every_other_verb(world: World, vendor: Any, version: str, prefix: str) -> None:
    headers = {"x-goog-api-key": world.keys["ci"]}
    routes = [(f"models/gemini:{action}", "POST") for action in ACTIONS] + [("models", "GET"), ("models/gemini", "GET")]
    for (path, right), verb in product(routes, VERBS):
        if verb == right:
            continue
        answer = world.http.request(verb, f"/{version}/{prefix}{path}", headers=headers)
        error_of(answer, 405, "INVALID_ARGUMENT")
        assert answer.headers["allow"] == right
    assert not vendor.requests


def test_head_is_refused_without_a_body(world: World) -> None:
    answer = world.http.head("/v1beta/models/gemini:generateContent", headers={"x-goog-api-key": world.keys["ci"]})
    assert (answer.status_code, answer.content) == (405, b"")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/models/", "/tunedModels", "/tunedModels/x:generateContent", "/cachedContents", "/files", "/batches",
     "/interactions", "/projects/p/locations/l/models/gemini", "/publishers/anthropic/models/x:rawPredict"],
)  # fmt: skip
def test_an_unknown_path_is_not_found_whatever_the_verb(world: World, vendor: Any, version: str, path: str) -> None:
    for verb in VERBS:
        answer = world.http.request(verb, f"/{version}{path}", headers={"x-goog-api-key": world.keys["ci"]})
        error_of(answer, 404, "NOT_FOUND")
    assert not vendor.requests


@pytest.mark.parametrize("action", ["generateText", "GenerateContent", "generateContent2", "batchGenerateContent"])
def test_an_unknown_action_is_told_with_the_model_and_the_version(world: World, vendor: Any, action: str) -> None:
    error = error_of(world.ask("gemini", action), 404, "NOT_FOUND")
    assert error["message"] == (f"models/gemini is not found for API version v1beta, or is not supported for {action}.")
    assert not vendor.requests


def test_beyond_the_api_programs_still_get_googles_shape(world: World) -> None:
    assert world.http.get("/v2/models").json()["error"]["status"] == "NOT_FOUND"
    assert world.http.get("/v1beta").json()["error"]["status"] == "NOT_FOUND"
    assert world.http.get("/v1betamax").json()["error"]["status"] == "NOT_FOUND"


# ── who asks ──


def calls(world: World, model: str = "gemini") -> Iterator[tuple[str, str, Any]]:
    """One of everything a key can do: verb, path and body."""
    for action in ACTIONS:
        yield "POST", f"/v1beta/models/{model}:{action}", BODIES[action]
    yield "GET", "/v1beta/models", None
    yield "GET", f"/v1beta/models/{model}", None


def everywhere(world: World, model: str = "gemini", **how: Any) -> Iterator[httpx2.Response]:
    for verb, path, body in calls(world, model):
        yield world.http.request(verb, path, json=body, **how)


def test_without_a_key_nothing_is_done(world: World, vendor: Any) -> None:
    for answer in everywhere(world):
        assert "unregistered callers" in error_of(answer, 403, "PERMISSION_DENIED")["message"]
    for headers in ({"authorization": "Basic abc"}, {"x-goog-api-key": ""}, {"authorization": "Bearer"}):
        for answer in everywhere(world, headers=headers):
            error_of(answer, 403, "PERMISSION_DENIED")
    assert not vendor.requests


@pytest.mark.parametrize(
    "secret", ["nonsense", "gate_", "gate_" + "A" * 46, "AIza" + "x" * 35, "k\u00e9y", "x" * 5000, "' OR 1=1 --"]
)
def test_a_malformed_key_is_not_valid(world: World, vendor: Any, secret: str) -> None:
    for answer in everywhere(world, headers=[(b"x-goog-api-key", secret.encode())]):
        check_not_valid(error_of(answer, 400, "INVALID_ARGUMENT"))
    assert not vendor.requests


@pytest.mark.parametrize("which", ["unknown", "revoked"])
def test_an_unknown_and_a_revoked_key_are_not_valid(world: World, vendor: Any, which: str) -> None:
    secret = secrets.make() if which == "unknown" else world.keys["revoked"]
    for answer in everywhere(world, headers={"x-goog-api-key": secret}):
        check_not_valid(error_of(answer, 400, "INVALID_ARGUMENT"))
    for answer in everywhere(world, params={"key": secret}):
        check_not_valid(error_of(answer, 400, "INVALID_ARGUMENT"))
    for answer in everywhere(world, headers={"authorization": f"Bearer {secret}"}):
        check_not_valid(error_of(answer, 401, "UNAUTHENTICATED"))
    assert not vendor.requests
    assert secret not in world.gateway.log


def check_not_valid(error: dict[str, Any]) -> None:
    assert error["message"] == "API key not valid. Please pass a valid API key."
    info = detail(error, "ErrorInfo")
    assert (info["reason"], info["domain"]) == ("API_KEY_INVALID", "googleapis.com")
    assert detail(error, "LocalizedMessage")["locale"] == "en-US"


def test_an_expired_key_is_told_so(world: World, vendor: Any) -> None:
    for answer in everywhere(world, headers={"x-goog-api-key": world.keys["expired"]}):
        error = error_of(answer, 400, "INVALID_ARGUMENT")
        assert error["message"] == "API key expired. Please renew the API key."
        assert detail(error, "ErrorInfo")["reason"] == "API_KEY_INVALID"
    assert not vendor.requests


@pytest.mark.parametrize(("key", "said"), [("disabled", "disabled"), ("elsewhere", "address 127.0.0.1")])
def test_a_disabled_key_and_one_of_another_network_are_refused_on_every_action(
    world: World, vendor: Any, key: str, said: str
) -> None:
    answers = list(everywhere(world, headers={"x-goog-api-key": world.keys[key]}))
    for answer in answers:
        assert said in error_of(answer, 403, "PERMISSION_DENIED")["message"]
    assert not vendor.requests
    check_recorded(world, answers[: len(ACTIONS)], 403, "PERMISSION_DENIED")


def test_a_scope_allows_its_action_and_no_other(world: World, vendor: Any) -> None:
    answers = list(everywhere(world, headers={"x-goog-api-key": world.keys["counts-only"]}))
    for (_, path, _), answer in zip(calls(world), answers, strict=True):
        if path.endswith("countTokens"):
            assert answer.status_code == 200
        else:
            assert "not allowed for this API key" in error_of(answer, 403, "PERMISSION_DENIED")["message"]
    assert not vendor.requests


@pytest.mark.parametrize("model", ["secret-model", "not-so-secret", "secret-that-does-not-exist"])
def test_a_model_that_is_not_allowed_is_refused_by_its_own_name_on_every_action(
    world: World, vendor: Any, model: str
) -> None:
    """Under an alias too, and whether it exists or not."""
    name = "secret-model" if model == "not-so-secret" else model
    answers = list(everywhere(world, model, headers={"x-goog-api-key": world.keys["no-secrets"]}))
    listed = answers.pop(-2)
    for answer in answers:
        error = error_of(answer, 403, "PERMISSION_DENIED")
        assert error["message"] == f"Model '{name}' is not allowed for this API key."
    assert "models/secret-model" not in [each["name"] for each in listed.json()["models"]]
    assert not vendor.requests
    known = "" if model == "secret-that-does-not-exist" else name  # what clients think up is no model of anybody's
    check_recorded(world, answers[: len(ACTIONS)], 403, "PERMISSION_DENIED", model=known, requested_model=model)


def test_a_key_for_some_models_uses_these_and_no_others(world: World, vendor: Any) -> None:
    headers = {"x-goog-api-key": world.keys["only-gemini"]}
    assert all(
        answer.status_code == 200 for answer in everywhere(world, ABLE, headers=headers) if answer.status_code != 404
    )
    vendor.forget()
    for answer in list(everywhere(world, "anthropic", headers=headers))[:5]:
        error_of(answer, 403, "PERMISSION_DENIED")
    names = [each["name"] for each in pages(world, headers)]
    assert names and all(name.startswith("models/gemini") for name in names)
    assert not vendor.requests


def test_an_allowed_name_without_a_model_is_not_found(world: World, vendor: Any) -> None:
    answers = list(everywhere(world, "missing-allowed", headers={"x-goog-api-key": world.keys["only-gemini"]}))
    answers.pop(-2)
    for answer in answers:
        assert "models/missing-allowed is not found" in error_of(answer, 404, "NOT_FOUND")["message"]
    assert not vendor.requests
    check_recorded(world, answers[: len(ACTIONS)], 404, "NOT_FOUND", model="", requested_model="missing-allowed")


def test_a_model_without_a_deployment_is_told_so(world: World) -> None:
    error_of(world.ask("empty-model"), 404, "NOT_FOUND")
    error_of(world.ask("empty-model", "streamGenerateContent"), 404, "NOT_FOUND")


def check_recorded(world: World, answers: list[httpx2.Response], code: int, status: str, **columns: str) -> None:
    """A refused call of a known key has its record, which says the same as the answer did."""
    found = recorded(world.gateway, [answer.headers["x-request-id"] for answer in answers])
    for row in found.values():
        assert (row["http_status"], row["status"]) == (code, status)
        assert row["error"]
        assert {name: row[name] for name in columns} == columns
        assert not row["attempts"]


# ── one model, many spellings ──


@pytest.mark.parametrize(
    "spelling",
    ["vendor/plain:v1", "vendor%2Fplain:v1", "vendor%2Fplain%3Av1", "vendor%252Fplain%253Av1", "models/vendor/plain:v1",
     "models%2Fvendor%2Fplain%3Av1", "fast", "models/fast", "vendor/alias:v2", "vendor%2Falias%3Av2"],
)  # fmt: skip
def test_every_spelling_of_a_model_is_that_model(world: World, vendor: Any, spelling: str) -> None:
    answers = [world.ask(spelling), world.ask(spelling, "streamGenerateContent"), world.ask(spelling, "countTokens")]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    headers = {"x-goog-api-key": world.keys["ci"]}
    described = world.http.get(f"/v1/models/{spelling}", headers=headers).json()
    assert described["baseModelId"] == "vendor/plain:v1"
    found = recorded(world.gateway, [answer.headers["x-request-id"] for answer in answers])
    assert {row["model"] for row in found.values()} == {"vendor/plain:v1"}
    colon = world.http.post(f"/v1beta/models/{spelling}%3AgenerateContent", json=saying("Hi"), headers=headers)
    assert colon.status_code == 200


def test_a_models_name_keeps_its_case_and_its_dots(world: World, vendor: Any) -> None:
    error_of(world.ask("Gemini"), 404, "NOT_FOUND")
    error_of(world.ask(quote("../gemini", safe="")), 404, "NOT_FOUND")
    assert not vendor.requests


# ── what is asked ──

DEEP = b'{"contents":' + b"[" * 70 + b"]" * 70 + b"}"


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"contents": [}', b'{"a": 1} x', b"\xff\xfe", b'{"a": NaN}', b"[]", b'"text"', b"null", b"3", DEEP,
     b"[" * 100_000],
    ids=["empty", "open", "broken", "trailing", "not-utf8", "nan", "array", "text", "null", "number", "deep", "very-deep"],
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_refused(world: World, vendor: Any, action: str, body: bytes) -> None:
    headers = {"x-goog-api-key": world.keys["ci"], "content-type": "application/json"}
    answer = world.http.post(f"/v1beta/models/{ABLE}:{action}", content=body, headers=headers)
    assert "Invalid JSON payload received." in error_of(answer, 400, "INVALID_ARGUMENT")["message"]
    assert not vendor.requests


WRONG: dict[str, Any] = {
    "contents": {"contents": "text"},
    "parts": {"contents": [{"parts": 3}]},
    "role": {"contents": [{"role": "king", "parts": [{"text": "x"}]}]},
    "text": {"contents": [{"parts": [{"text": 3}]}]},
    "data": {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "***"}}]}]},
    "config": saying("x", generationConfig=[]),
    "temperature": saying("x", generationConfig={"temperature": "hot"}),
    "tokens": saying("x", generationConfig={"maxOutputTokens": 1.5}),
    "mode": saying("x", toolConfig={"functionCallingConfig": {"mode": "SOMETIMES"}}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_of_the_wrong_kind_is_refused_with_its_field(world: World, name: str) -> None:
    vendor = world.vendor("openai")
    for action in ("generateContent", "streamGenerateContent"):
        error = error_of(world.ask("openai", action, WRONG[name]), 400, "INVALID_ARGUMENT")
        [violation] = detail(error, "BadRequest")["fieldViolations"]
        assert violation["field"]
    assert not vendor.requests


def test_any_content_type_and_form_of_a_key_will_do(world: World) -> None:
    body = json.dumps(saying("Hi")).encode()
    secret = world.keys["ci"]
    forms: list[tuple[str, dict[str, str]]] = [
        ("", {"x-goog-api-key": secret}),
        (f"?key={secret}", {}),
        (f"?alt=json&key={secret}&prettyPrint=false", {}),
        (f"?%6bey={secret}", {}),
        ("", {"authorization": f"Bearer {secret}"}),
        ("", {"authorization": f"bearer {secret}", "x-goog-api-key": secret}),
    ]
    for query, headers in forms:
        for kind in ("application/x-www-form-urlencoded", "text/plain", "application/json"):
            url = f"/v1beta/models/gemini:generateContent{query}"
            answer = world.http.post(url, content=body, headers={"content-type": kind, **headers})
            assert answer.status_code == 200, answer.text
    assert secret not in world.gateway.log


TOO_MUCH = 20 * 1024 * 1024 + 1


def test_a_body_declared_too_large_is_refused_before_it_is_sent(world: World, vendor: Any) -> None:
    head = (
        f"POST /v1beta/models/gemini:generateContent HTTP/1.1\r\nhost: gateway\r\nx-goog-api-key: {world.keys['ci']}\r\n"
        f"content-length: {TOO_MUCH}\r\n\r\n"
    )
    answer = raw(world, head.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert (error["code"], error["status"]) == (413, "INVALID_ARGUMENT")
    assert b"connection: close" in answer.lower()
    assert not vendor.requests


def test_a_body_that_grows_too_large_is_refused(world: World, vendor: Any) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(TOO_MUCH // 65536 + 2):
            yield b" " * 65536

    headers = {"x-goog-api-key": world.keys["ci"]}
    with httpx2.Client(timeout=30) as client:
        answer = client.post(f"{world.url}/v1beta/models/gemini:generateContent", content=pieces(), headers=headers)
    error_of(answer, 413, "INVALID_ARGUMENT")
    check_recorded(world, [answer], 413, "INVALID_ARGUMENT")
    assert not vendor.requests


def test_a_compressed_body_is_read_and_what_is_none_is_refused(world: World, vendor: Any) -> None:
    def asked(content: bytes, encoding: str = "gzip") -> httpx2.Response:
        headers = {"x-goog-api-key": world.keys["ci"], "content-encoding": encoding}
        return world.http.post("/v1beta/models/gemini:generateContent", content=content, headers=headers)

    packed = gzip.compress(json.dumps(saying("Hi")).encode())
    assert asked(packed).status_code == 200
    [arrived] = vendor.requests
    assert arrived.json == saying("Hi")
    for content, encoding in ((b"{}", "gzip"), (packed[:-9], "gzip"), (packed, "br")):
        error_of(asked(content, encoding), 400, "INVALID_ARGUMENT")
    error_of(asked(gzip.compress(b" " * TOO_MUCH)), 413, "INVALID_ARGUMENT")
    assert len(vendor.requests) == 1


def test_a_refusal_reaches_a_client_that_is_still_sending(world: World, vendor: Any) -> None:
    """Its body is not read, and still it must not see a broken connection instead of an answer."""
    body = json.dumps(saying("x" * 8_000_000)).encode()
    for headers, code in (({}, 403), ({"x-goog-api-key": "nonsense"}, 400)):
        for _ in range(5):
            with httpx2.Client(timeout=30) as client:
                url = f"{world.url}/v1beta/models/gemini:generateContent"
                assert client.post(url, content=body, headers=headers).status_code == code
    assert not vendor.requests


def raw(world: World, sent: bytes) -> bytes:
    """What comes back on a socket of its own, until the other side closes it."""
    with socket.create_connection(("127.0.0.1", world.gateway.port), timeout=30) as connection:
        connection.sendall(sent)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


@pytest.mark.parametrize(
    "sent",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",  # no Host
        b"GET /v1/models HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET http://elsewhere/v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 40_000 + b"\r\n\r\n",
    ],
    ids=["nonsense", "no-host", "two-hosts", "absolute", "bad-length", "huge-head"],
)
def test_what_is_no_request_at_all_is_refused_in_googles_shape(world: World, sent: bytes) -> None:
    answer = raw(world, sent)
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert head.startswith(f"HTTP/1.1 {error['code']} ".encode())
    assert error["status"] == "INVALID_ARGUMENT"


# ── what goes wrong over there ──

# fault: code, status word, seconds of RetryInfo (0: none).
TOLD: dict[str, tuple[int, str, int]] = {
    "400": (400, "INVALID_ARGUMENT", 0),
    "context": (400, "INVALID_ARGUMENT", 0),
    "401": (503, "UNAVAILABLE", 0),
    "403": (503, "UNAVAILABLE", 0),
    "404": (404, "NOT_FOUND", 0),
    "413": (400, "INVALID_ARGUMENT", 0),
    "429": (429, "RESOURCE_EXHAUSTED", 7),
    "quota": (429, "RESOURCE_EXHAUSTED", 0),
    "500": (500, "INTERNAL", 0),
    "503": (503, "UNAVAILABLE", 0),
    "hang": (504, "DEADLINE_EXCEEDED", 0),
    "cut": (503, "UNAVAILABLE", 0),
    "html": (503, "UNAVAILABLE", 0),
    "garbage": (500, "INTERNAL", 0),
    "nothing": (500, "INTERNAL", 0),
}
# Google says when to come back, or we guess, whatever quota it is; a stream that is no stream has no proper end.
TOLD_ELSEWHERE: dict[tuple[str, str], tuple[int, str, int]] = {
    ("gemini", "quota"): (429, "RESOURCE_EXHAUSTED", 5),
    ("openai", "garbage"): (503, "UNAVAILABLE", 0),
    ("openai", "nothing"): (503, "UNAVAILABLE", 0),
}


@pytest.mark.parametrize("fault", TOLD)
@pytest.mark.parametrize(("kind", "action"), [("gemini", "generateContent"), ("openai", "streamGenerateContent")])
def test_an_upstreams_trouble_is_told_in_googles_words(world: World, kind: str, action: str, fault: str) -> None:
    code, status, wait = TOLD_ELSEWHERE.get((kind, fault), TOLD[fault])
    vendor = world.vendor(kind)
    answer = world.ask(f"{kind}-told-{fault}", action, saying(trigger(fault)))
    error = error_of(answer, code, status)
    info = detail(error, "ErrorInfo")
    assert (info["reason"], info["domain"]) == ("UPSTREAM_ERROR", "gatehouse")
    waits = [each["retryDelay"] for each in error["details"] if each["@type"] == RPC + "RetryInfo"]
    assert waits == ([f"{wait}s"] if wait else [])
    assert answer.headers.get("retry-after") == (str(wait) if wait else None)
    assert "upstream-key" not in answer.text and str(vendor.url) not in answer.text
    assert vendor.requests
    [row] = recorded(world.gateway, [answer.headers["x-request-id"]]).values()
    assert (row["http_status"], row["status"], row["model"]) == (code, status, f"{kind}-told-{fault}")
    # A kept connection that ends without a word could have been ending before: then the try is sent once more.
    tries = len(row["attempts"])
    assert tries <= len(vendor.requests) <= (2 * tries if fault == "cut" else tries)


# ── the list of models ──


def pages(world: World, headers: dict[str, str], size: int = 100) -> Iterator[dict[str, Any]]:
    token = ""
    while True:
        answer = world.http.get("/v1beta/models", params={"pageSize": size, "pageToken": token}, headers=headers).json()
        assert len(answer["models"]) <= size
        yield from answer["models"]
        token = answer.get("nextPageToken", "")
        if not token:
            return


def test_the_list_of_models_comes_in_pages_without_gaps_or_doubles(world: World) -> None:
    headers = {"x-goog-api-key": world.keys["ci"]}
    names = [model["name"] for model in pages(world, headers, 7)]
    assert names == sorted(set(names))
    assert names == [model["name"] for model in pages(world, headers, 1000)]
    assert "models/empty-model" not in names


@pytest.mark.parametrize("query", ["pageSize=many", "pageSize=-1", "pageToken=!!", "page_size=1.5"])
def test_a_page_that_does_not_exist_is_refused(world: World, query: str) -> None:
    answer = world.http.get(f"/v1beta/models?{query}", headers={"x-goog-api-key": world.keys["ci"]})
    error = error_of(answer, 400, "INVALID_ARGUMENT")
    assert detail(error, "BadRequest")["fieldViolations"][0]["field"] in ("page_size", "page_token")


# ── what is counted, embedded, dropped ──


def test_tokens_are_counted_in_both_forms_and_by_the_vendor_where_a_deployment_says_so(world: World) -> None:
    plain = world.ask("openai", "countTokens", saying("one two three"))
    nested = world.ask(
        "openai", "countTokens", {"generateContentRequest": {"model": "models/openai", **saying("one two three")}}
    )
    assert plain.json() == nested.json()
    assert plain.json()["totalTokens"] > 3
    assert plain.headers["x-gatehouse-token-count"] == "estimate"
    for kind in ("gemini", "anthropic"):
        exact = world.ask(f"exact-{kind}", "countTokens", saying("one two three"))
        assert (exact.json()["totalTokens"], exact.headers["x-gatehouse-token-count"]) == (3, "exact")
    both = world.ask("openai", "countTokens", {**saying("a"), "generateContentRequest": saying("b")})
    error_of(both, 400, "INVALID_ARGUMENT")


def test_a_vendor_that_cannot_count_leaves_it_to_our_own_estimate(world: World) -> None:
    world.vendor("anthropic").faults.append("503")
    answer = world.ask("exact-anthropic", "countTokens", saying("nobody asked this before"))
    assert (answer.status_code, answer.headers["x-gatehouse-token-count"]) == (200, "estimate")


@pytest.mark.parametrize("kind", ["gemini", "vertex", "openai", "azure-chat", "gemini_openai"])
def test_texts_are_embedded_alone_and_many_at_once(world: World, kind: str) -> None:
    one = {"content": {"parts": [{"text": "one"}]}, "taskType": "RETRIEVAL_QUERY", "outputDimensionality": 4}
    alone = world.ask(embedder(kind), "embedContent", one)
    assert alone.status_code == 200, alone.text
    two = {**one, "content": {"parts": [{"text": "two"}]}}
    many = world.ask(
        embedder(kind), "batchEmbedContents", {"requests": [one, {"model": f"models/{embedder(kind)}", **two}]}
    )
    assert many.status_code == 200, many.text
    first, second = (each["values"] for each in many.json()["embeddings"])
    assert first == alone.json()["embedding"]["values"] != second
    assert len(first) == 4
    found = recorded(world.gateway, [answer.headers["x-request-id"] for answer in (alone, many)])
    assert {row["action"] for row in found.values()} == {"embedContent", "batchEmbedContents"}


def test_what_cannot_be_embedded_is_refused(world: World) -> None:
    error_of(world.ask("anthropic", "embedContent", BODIES["embedContent"]), 501, "UNIMPLEMENTED")
    error_of(world.ask(embedder("gemini"), "embedContent", {}), 400, "INVALID_ARGUMENT")
    error_of(world.ask(embedder("gemini"), "batchEmbedContents", {"requests": []}), 400, "INVALID_ARGUMENT")
    other = {"requests": [{"model": "models/another", "content": {"parts": [{"text": "x"}]}}]}
    error_of(world.ask(embedder("openai"), "batchEmbedContents", other), 400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("action", ["generateContent", "streamGenerateContent"])
def test_an_answer_without_an_id_of_its_own_has_the_one_in_its_head(world: World, action: str) -> None:
    said = world.ask("bedrock-nova", action, saying("Hi")).json()
    assert {each["responseId"] for each in (said if isinstance(said, list) else [said])} == {"request-1"}


def test_the_prompt_of_a_stream_that_breaks_off_costs_what_the_vendor_counted(world: World) -> None:
    asked = saying("[[cut:after=2]] [[long:6]]")
    broken = world.ask("anthropic-broken", "streamGenerateContent", asked)
    exact = world.ask("exact-anthropic", "countTokens", asked)
    assert exact.headers["x-gatehouse-token-count"] == "exact"
    [row] = recorded(world.gateway, [broken.headers["x-request-id"]]).values()
    assert (row["prompt_tokens"], row["flags"]) == (exact.json()["totalTokens"], ["cut", "estimated"])


LOSSY = saying("Hi", generationConfig={"topK": 3}, safetySettings=[])


def test_losses_stand_in_the_header_and_in_the_record(world: World) -> None:
    for action in ("generateContent", "streamGenerateContent"):
        answer = world.ask("openai", action, LOSSY)
        assert answer.headers["x-gatehouse-dropped"] == "generationConfig.topK"
        [row] = recorded(world.gateway, [answer.headers["x-request-id"]]).values()
        assert row["dropped"] == ["generationConfig.topK"]


@pytest.mark.parametrize(("model", "key"), [("strict-model", "ci"), ("openai", "strict")])
@pytest.mark.parametrize("action", ["generateContent", "streamGenerateContent"])
def test_a_strict_model_and_a_strict_key_refuse_losses_by_their_field(
    world: World, model: str, key: str, action: str
) -> None:
    vendor = world.vendor("openai")
    error = error_of(world.ask(model, action, LOSSY, key=key), 400, "INVALID_ARGUMENT")
    assert detail(error, "BadRequest")["fieldViolations"][0]["field"] == "generationConfig.topK"
    assert not vendor.requests
