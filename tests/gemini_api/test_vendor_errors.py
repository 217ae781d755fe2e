"""Vendors' error bodies: read in every shape, with the wait they ask for, and without what clients must not see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemini_api.translators import anthropic_messages, bedrock_converse, chat_completions, errors, gemini, responses
from gemini_api.translators.base import Memo
from routing.errors import UpstreamError, UpstreamRefusal
from routing.framing import Frame

NOW = 1_760_000_000.0


def refusal(status: int, body: Any = "", headers: dict[str, str] | None = None) -> UpstreamRefusal:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return UpstreamRefusal(status, headers or {}, raw)


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"message":"m","type":"t","code":"c"}}', "m", "c"),
        (b'{"error":{"message":"m","code":429}}', "m", "429"),
        (b'{"error":"text"}', "text", ""),
        (b'{"error":"c","message":"m"}', "m", ""),
        (b'{"message":"m"}', "m", ""),
        (b'{"Message":"m"}', "m", ""),
        (b'{"detail":"m"}', "m", ""),
        (b'{"detail":[{"loc":["body"],"msg":"m"}]}', '[{"loc":["body"],"msg":"m"}]', ""),
        (b'[{"error":{"message":"m","code":400}}]', "m", "400"),
        (b'"m"', "m", ""),
        (b"<html>502</html>", "", ""),
        (b"", "", ""),
        (b"[]", "", ""),
        (b"null", "", ""),
        (b'{"error":null}', "", ""),
        (b'{"error":{"message":null,"code":null,"details":{}}}', "", ""),
    ],
)
def test_every_shape_of_an_error_body_is_read(body: bytes, message: str, code: str) -> None:
    found = errors.read(body)
    assert (found.message, found.code) == (message, code)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Thu, 09 Oct 2025 08:53:30 GMT"}, 10.0),
        ({"retry-after": "Thu, 09 Oct 2025 08:53:10 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "99999999"}, 3600.0),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "120ms", "x-ratelimit-remaining-tokens": "0"}, 0.12),
        ({"x-ratelimit-reset-tokens": "120ms", "x-ratelimit-remaining-tokens": "500"}, None),
        ({"anthropic-ratelimit-requests-reset": "2025-10-09T08:53:30Z"}, 10.0),
        ({}, None),
    ],
)
def test_the_first_source_that_names_a_wait_is_believed(headers: dict[str, str], seconds: float | None) -> None:
    assert errors.retry_after(headers, now=NOW) == (None if seconds is None else pytest.approx(seconds))


def test_googles_retry_info_is_a_source_too() -> None:
    body = errors.read(
        b'{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"12.5s"}]}}'
    )
    assert errors.retry_after({}, body) == 12.5


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("Incorrect API key provided: sk-proj-abc***xyz. You can", "sk-proj"),
        ("key AIzaSyA1234567890abcdef is", "AIza"),
        ("Bearer abcdefghijkl", "abcdefghijkl"),
        ("arn:aws:bedrock:us-east-1:123456789012:model/x is", "123456789012"),
        ("account 123456789012 has", "123456789012"),
        ("in organization org-AbC123dEf456 on", "AbC123"),
        ("consumer 'project_number:1234567890'", "1234567890"),
        ("Consumer projects/my-secret-project/locations", "my-secret-project"),
        ("https://acme.openai.azure.com/openai is", "acme"),
        ("host acme.openai.azure.com unknown", "acme"),
        ("connect 10.1.2.3:8080 refused", "10.1.2.3"),
        ("token ya29.a0AfH6SMB expired", "a0AfH6SMB"),
    ],
)
def test_what_is_the_operators_is_not_told(text: str, gone: str) -> None:
    assert gone not in errors.redact(text)


@pytest.mark.parametrize(
    "text",
    ["max_tokens is too large: 5000. This model supports at most 4096 completion tokens.", "Invalid value: 'foo'."],
)
def test_what_helps_the_caller_stays(text: str) -> None:
    assert errors.redact(text) == text


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "bad", "code": None}}, {"kind": "invalid", "message": "bad"}),
        (
            400,
            {"error": {"message": "x", "code": "context_length_exceeded"}},
            {"kind": "too_long", "message": errors.TOO_LONG},
        ),
        (400, {"message": "This model's maximum context length is 8192 tokens."}, {"kind": "too_long"}),
        (401, {"error": {"code": "invalid_api_key"}}, {"kind": "credential"}),
        (
            400,
            [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}],
            {"kind": "credential"},
        ),
        (
            401,
            {"error": {"code": "401", "message": "Access denied due to invalid subscription key"}},
            {"kind": "credential"},
        ),
        (403, "", {"kind": "credential"}),
        (402, "", {"kind": "billing"}),
        (404, {"error": {"code": "model_not_found"}}, {"kind": "not_found"}),
        (404, {"error": {"code": "DeploymentNotFound"}}, {"kind": "not_found"}),
        (408, "", {"kind": "timeout"}),
        (409, "", {"kind": "conflict"}),
        (413, "", {"kind": "invalid"}),
        (422, {"detail": "no"}, {"kind": "invalid", "message": "no"}),
        (429, {"error": {"code": "insufficient_quota", "message": "x"}}, {"kind": "billing", "retry_after": None}),
        (429, {"error": {"code": "rate_limit_exceeded"}}, {"kind": "rate_limited"}),
        (400, {"error": {"code": "monthly_spend_limit_exceeded"}}, {"kind": "billing"}),
        (500, "<html>", {"kind": "server"}),
        (502, "", {"kind": "unavailable"}),
        (503, "", {"kind": "unavailable"}),
        (504, "", {"kind": "timeout"}),
        (
            400,
            {"error": {"code": "unsupported_value", "param": "temperature", "message": "x"}},
            {"kind": "invalid", "drop_field": "temperature"},
        ),
        (
            400,
            {"error": {"message": "Unsupported parameter: 'top_p' is not supported", "code": None}},
            {"drop_field": "top_p"},
        ),
        (
            400,
            {"error": {"code": "unsupported_parameter", "param": "tools", "message": "x"}},
            {"kind": "invalid", "drop_field": ""},
        ),
    ],
)
def test_openais_refusals_are_understood(status: int, body: Any, expected: dict[str, Any]) -> None:
    meant = chat_completions.error(refusal(status, body, {"retry-after": "3"} if status == 429 else None), Memo())
    assert isinstance(meant, UpstreamError)
    assert {name: getattr(meant, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"status": "INVALID_ARGUMENT", "message": "bad"}, {"kind": "invalid", "message": "bad"}),
        (
            400,
            {"status": "INVALID_ARGUMENT", "details": [{"@type": "x", "reason": "API_KEY_INVALID"}]},
            {"kind": "credential"},
        ),
        (400, {"message": "API key not valid. Please pass a valid API key."}, {"kind": "credential"}),
        (400, {"status": "FAILED_PRECONDITION", "message": "User location is not supported"}, {"kind": "credential"}),
        (
            400,
            {
                "status": "INVALID_ARGUMENT",
                "message": "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            },
            {
                "kind": "too_long",
                "message": "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            },
        ),
        (
            400,
            {
                "status": "INVALID_ARGUMENT",
                "message": "Function call is missing a thought_signature in functionCall parts.",
            },
            {"drop_field": "thoughtSignature"},
        ),
        (
            400,
            {"status": "INVALID_ARGUMENT", "message": "Corrupted thought signature."},
            {"drop_field": "thoughtSignature"},
        ),
        (403, {"status": "PERMISSION_DENIED"}, {"kind": "credential"}),
        (404, {"status": "NOT_FOUND"}, {"kind": "not_found"}),
        (429, {"status": "RESOURCE_EXHAUSTED", "message": "x"}, {"kind": "rate_limited"}),
        (503, {"status": "UNAVAILABLE", "message": "The model is overloaded."}, {"kind": "unavailable"}),
        (500, {"status": "INTERNAL"}, {"kind": "server"}),
        (504, {"status": "DEADLINE_EXCEEDED"}, {"kind": "timeout"}),
    ],
)
@pytest.mark.parametrize("wrap", [lambda error: {"error": error}, lambda error: [{"error": error}]])
def test_googles_refusals_are_understood_bare_and_in_a_list(
    status: int, body: Any, expected: dict[str, Any], wrap: Any
) -> None:
    meant = gemini.error(refusal(status, wrap({"code": status, **body})), Memo())
    assert isinstance(meant, UpstreamError)
    assert {name: getattr(meant, name) for name in expected} == expected


def test_field_violations_of_google_reach_the_client() -> None:
    detail = {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"field": "contents", "description": "x"}],
    }
    meant = gemini.error(
        refusal(400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "x", "details": [detail]}}),
        Memo(),
    )
    assert isinstance(meant, UpstreamError)
    assert meant.details == [detail]


@pytest.mark.parametrize("language", [chat_completions, gemini])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"error":{"code":429,"message":"slow down","status":"RESOURCE_EXHAUSTED"}}', "rate_limited"),
        (b'{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}', "unavailable"),
        (b'[{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}]', "unavailable"),
        (b"not json", "protocol"),
    ],
)
def test_an_error_inside_a_stream_is_an_error(language: Any, data: bytes, kind: str) -> None:
    with pytest.raises(UpstreamError) as trouble:
        language.Stream(Memo()).feed(Frame(data))
    assert trouble.value.kind == kind


@pytest.mark.parametrize(
    "answer", [{}, {"error": {"message": "x", "code": 503}}, [], {"choices": "x"}, {"choices": []}]
)
@pytest.mark.parametrize("language", [anthropic_messages, bedrock_converse, chat_completions, gemini, responses])
def test_an_answer_that_is_none_is_an_error(language: Any, answer: Any) -> None:
    with pytest.raises(UpstreamError):
        language.response(answer, Memo())
