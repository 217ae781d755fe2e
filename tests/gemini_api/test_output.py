"""What leaves, byte for byte: the official clients break on anything else."""

from __future__ import annotations

import json

from gemini_api import answers
from gemini_api.answers import Reading
from gemini_api.errors import InvalidArgument, ResourceExhausted, Unavailable, quota_failure, retry_info
from gemini_api.output import ARRAY, EVENTS


def test_an_event_is_data_space_json_and_a_blank_line() -> None:
    assert EVENTS.chunk(b'{"a":1}', first=True) == b'data: {"a":1}\n\n'
    assert EVENTS.end(first=False) == b""


def test_an_array_is_valid_json_however_many_chunks_it_has() -> None:
    for count in range(3):
        pieces = [ARRAY.chunk(b"{}", first=at == 0) for at in range(count)]
        assert json.loads(b"".join([*pieces, ARRAY.end(first=count == 0)])) == [{}] * count


def test_an_error_in_a_stream_is_written_twice_the_second_time_bare() -> None:
    event, bare = EVENTS.error(Unavailable("gone"), first=False)
    assert event == b"data: " + bare + b"\n\n"
    assert json.loads(bare)["error"] == {"code": 503, "message": "gone", "status": "UNAVAILABLE"}
    assert not bare.endswith(b"\n")


def test_an_error_in_an_array_is_its_last_element() -> None:
    whole = ARRAY.chunk(b"{}", first=True) + b"".join(ARRAY.error(Unavailable("gone"), first=False))
    assert json.loads(whole)[1]["error"]["code"] == 503


def test_line_breaks_that_clients_cut_at_leave_as_escapes() -> None:
    payload = answers.payload({"candidates": [{"content": {"parts": [{"text": "a\u2028b\u2029c\u0085d"}]}}]})
    assert payload.isascii()
    assert json.loads(payload)["candidates"][0]["content"]["parts"][0]["text"] == "a\u2028b\u2029c\u0085d"


def test_what_is_only_ours_does_not_leave() -> None:
    chunk = {"usageMetadata": {"promptTokenCount": 5, answers.CACHE_WRITE: 3}}
    assert json.loads(answers.payload(chunk)) == {"usageMetadata": {"promptTokenCount": 5}}
    assert chunk["usageMetadata"][answers.CACHE_WRITE] == 3


def test_an_answer_is_read_in_passing() -> None:
    reading = Reading()
    size = answers.read(
        {
            "candidates": [
                {"content": {"parts": [{"text": "héllo"}, {"functionCall": {"name": "f"}}]}, "finishReason": "STOP"}
            ],
            "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2, "cachedContentTokenCount": -4},
        },
        reading,
    )
    assert size == len("héllo".encode()) + len('{"name":"f"}')
    assert reading.tokens is not None
    assert (reading.finish_reason, reading.tokens.prompt, reading.tokens.cached) == ("STOP", 9, 0)


def test_retry_info_is_a_duration_and_also_a_header() -> None:
    assert retry_info(7)["retryDelay"] == "7s"
    assert retry_info(0.9)["retryDelay"] == "0.900s"
    error = ResourceExhausted("slow down", details=[quota_failure([])], retry_after=1.2)
    assert error.headers()["Retry-After"] == "2"
    assert [each["@type"].rsplit(".", 1)[1] for each in error.body()["error"]["details"]] == [
        "QuotaFailure",
        "RetryInfo",
    ]


def test_a_bad_field_is_named_in_the_details() -> None:
    error = InvalidArgument("No.", field="contents[0]").body()["error"]
    assert error["details"][0]["fieldViolations"] == [{"field": "contents[0]", "description": "No."}]
