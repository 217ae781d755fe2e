"""Bytes into Frames: the same frames wherever the network cuts, and damage is named."""

from __future__ import annotations

import base64
import itertools
import struct
import zlib

import pytest
from botocore import eventstream
from hypothesis import given
from hypothesis import strategies as st

from lib import json
from routing.errors import UpstreamError
from routing.framing import Decoder, EventStreamDecoder, Frame, SSEDecoder, event_headers


def decode(decoder: Decoder, *pieces: bytes) -> list[Frame]:
    frames: list[Frame] = []
    for piece in pieces:
        frames += decoder.feed(piece)
    return frames + decoder.finish()


def f(data: bytes, event: str = "") -> Frame:
    return Frame(data, event)


SSE = [
    ("LF", b'data: {"a":1}\n\ndata: {"b":2}\n\n', [f(b'{"a":1}'), f(b'{"b":2}')]),
    ("CRLF", b'data: {"a":1}\r\n\r\ndata: {"b":2}\r\n\r\n', [f(b'{"a":1}'), f(b'{"b":2}')]),
    ("CR", b'data: {"a":1}\r\rdata: {"b":2}\r\r', [f(b'{"a":1}'), f(b'{"b":2}')]),
    ("no space", b"data:1\n\n", [f(b"1")]),
    ("only one space is taken", b"data:  1\n\n", [f(b" 1")]),
    ("event names", b"event: ping\ndata: {}\n\ndata: 1\n\n", [f(b"{}", "ping"), f(b"1")]),
    ("comments, ids, retry", b": hi\nid: 4\nretry: 1\ndata: 1\n\n", [f(b"1")]),
    ("several data lines", b"data: [1,\ndata: 2]\n\n", [f(b"[1,\n2]")]),
    ("an event without data", b"event: x\n\ndata: 1\n\n", [f(b"1")]),
    ("blank lines between", b"\n\n\ndata: 1\n\n\n\n", [f(b"1")]),
    ("done", b"data: 1\n\ndata: [DONE]\n\n", [f(b"1"), f(b"[DONE]")]),
    ("byte order mark", b"\xef\xbb\xbfdata: 1\n\n", [f(b"1")]),
    ("no last blank line", b"data: 1\n\ndata: 2", [f(b"1"), f(b"2")]),
    ("a last event that is cut", b'data: 1\n\ndata: {"a":', [f(b"1")]),
    ("Unicode line breaks are text", 'data: {"a":"\u2028\u2029\u0085\x0b\x0c"}\n\n'.encode(), [f('{"a":"\u2028\u2029\u0085\x0b\x0c"}'.encode())]),
    ("a bare error at the end", b'data: 1\r\n\r\n{"error":{"code":503}}', [f(b"1"), f(b'{"error":{"code":503}}')]),
    ("a bare error in the middle", b'data: 1\n\n{"error":{}}\n\ndata: 2\n\n', [f(b"1"), f(b'{"error":{}}'), f(b"2")]),
    ("a bare error, printed prettily", b'{\n  "error": {\n    "code": 503\n  }\n}\n\ndata: 2\n\n', [f(b'{\n  "error": {\n    "code": 503\n  }\n}'), f(b"2")]),
    ("a bare list", b'[{\n  "error": {"code": 503}\n}\n]', [f(b'[{\n  "error": {"code": 503}\n}\n]')]),
    ("a bare thing that is not JSON", b'{"error": oh\n\ndata: 2\n\n', [f(b"2")]),
    ("a whole answer instead of a stream", b'{"candidates":[]}', [f(b'{"candidates":[]}')]),
    ("nothing", b"", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "frames"), [pytest.param(text, frames, id=name) for name, text, frames in SSE])
def test_events_are_the_same_wherever_the_stream_is_cut(text: bytes, frames: list[Frame]) -> None:
    assert decode(SSEDecoder(), text) == frames
    assert decode(SSEDecoder(), *(text[at : at + 1] for at in range(len(text)))) == frames
    for cut in range(len(text) + 1):
        assert decode(SSEDecoder(), text[:cut], text[cut:]) == frames


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each), max_leaves=8
)  # fmt: skip


@given(
    values=st.lists(VALUES),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    cuts=st.lists(st.integers(0, 4000)),
    noise=st.sampled_from([b"", b": keep-alive", b"id: 7"]),
)
def test_any_json_in_any_pieces_comes_out_as_it_went_in(
    values: list[object], end: bytes, cuts: list[int], noise: bytes
) -> None:
    texts = [json.dumps(value) for value in values]
    stream = b"".join(noise + end + b"data: " + text + end + end for text in texts)
    at = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    pieces = [stream[start:stop] for start, stop in itertools.pairwise(at)]
    assert [frame.data for frame in decode(SSEDecoder(), *pieces)] == texts


def test_a_frame_leaves_with_the_last_byte_of_its_blank_line_and_not_later() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: 1\n") == []
    assert decoder.feed(b"\n") == [f(b"1")]
    assert decoder.feed(b"data: 2\r\n\r") == [f(b"2")]
    assert decoder.feed(b"\ndata: 3\n\n") == [f(b"3")]


@pytest.mark.parametrize("text", [b"data: " + b"x" * 2000, b"data: x\n" * 600, b"{" + b"x" * 2000, b'{\n"a":\n' * 300])
def test_a_line_or_an_event_has_a_largest_size(text: bytes) -> None:
    with pytest.raises(UpstreamError) as error:
        decode(SSEDecoder(max_line=1000), text[:900], text[900:])
    assert error.value.kind == "protocol"


def test_a_large_line_in_small_pieces_is_joined_once() -> None:
    """If every piece were joined to what is there, these would copy 250 GB, and nobody would see the end of it."""
    decoder, piece = SSEDecoder(), b"x" * 64
    decoder.feed(b"data: ")
    for _ in range(8_000_000 // 64):
        decoder.feed(piece)
    assert [len(frame.data) for frame in decoder.feed(b"\n\n")] == [8_000_000]


# ---- AWS event stream

VECTOR = bytes.fromhex(
    "00000083000000518f0874490b3a6576656e742d7479706507000b6d65737361676553746f700d3a636f6e74656e742d74797065070010"
    "6170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e747b2273746f70526561736f6e223a22656e"
    "645f7475726e222c2270223a226162227de5af7f2a"
)


def aws(payload: bytes, **headers: str) -> bytes:
    """One frame, built from the specification."""
    packed = b""
    for name, value in headers.items():
        key, text = f":{name.replace('_', '-')}".encode(), value.encode()
        packed += bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(text)) + text
    prelude = struct.pack(">II", len(packed) + len(payload) + 16, len(packed))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    return prelude + packed + payload + struct.pack(">I", zlib.crc32(prelude + packed + payload))


STREAM = (
    aws(b'{"a":1}', message_type="event", event_type="messageStart")
    + aws(b'{"message":"slow down"}', message_type="exception", exception_type="throttlingException")
    + aws(b"", message_type="error", error_code="Internal", error_message="oh no")
    + aws(
        b'{"bytes":"' + base64.b64encode(b'{"type":"ping"}') + b'","p":"abc"}', message_type="event", event_type="chunk"
    )
    + VECTOR
)
FRAMES = [
    Frame(b'{"a":1}', "messageStart"),
    Frame(b'{"message":"slow down"}', "throttlingException", exception=True),
    Frame(b'{"message":"oh no"}', "Internal", exception=True),
    Frame(b'{"type":"ping"}'),
    Frame(b'{"stopReason":"end_turn","p":"ab"}', "messageStop"),
]


def test_aws_frames_are_the_same_wherever_the_stream_is_cut() -> None:
    assert decode(EventStreamDecoder(), STREAM) == FRAMES
    for cut in range(len(STREAM) + 1):
        assert decode(EventStreamDecoder(), STREAM[:cut], STREAM[cut:]) == FRAMES
    assert decode(EventStreamDecoder(), *(STREAM[at : at + 1] for at in range(len(STREAM)))) == FRAMES


# A header of every type there is, in the order of their numbers, with a text after them.
TYPED = (
    b"\x01a\x00\x01b\x01\x01c\x02\xff\x01d\x03\xff\xfe\x01e\x04\x00\x00\x00\x01\x01f\x05" + b"\x01" * 8 + b"\x01g\x06\x00\x02hi"
    b"\x01h\x07\x00\x03\xc3\xa4!\x01i\x08" + b"\x02" * 8 + b"\x01j\x09" + b"\x03" * 16 + b"\x01k\x07\x00\x00"
)  # fmt: skip


def test_botocore_reads_the_same_frames_and_headers() -> None:
    buffer = eventstream.EventStreamBuffer()
    buffer.add_data(STREAM)
    theirs = [(message.headers.get(":event-type", ""), message.payload) for message in buffer]
    events = [(frame.event, frame.data) for frame in FRAMES if not frame.exception and frame.event]
    assert [each for each in theirs if each[0] not in ("", "chunk")] == events
    read = eventstream.EventStreamHeaderParser().parse(TYPED)
    assert event_headers(TYPED) == {name: value for name, value in read.items() if isinstance(value, str)}
    assert event_headers(TYPED) == {"h": "ä!", "k": ""}


@pytest.mark.parametrize(
    "head", [TYPED[:-1], TYPED + b"\x01k\x07\x00\x00", b"\x01a\x0a", b"\x05ab", b"\x01a\x07\x00\x09b", b"\x01\xff\x00"]
)
def test_headers_that_cannot_be_right_are_damage(head: bytes) -> None:
    prelude = struct.pack(">II", len(head) + 16, len(head))
    frame = prelude + struct.pack(">I", zlib.crc32(prelude)) + head
    with pytest.raises(UpstreamError) as error:
        decode(EventStreamDecoder(), frame + struct.pack(">I", zlib.crc32(frame)))
    assert error.value.kind == "cut"


def test_a_frame_that_says_to_be_enormous_is_refused_before_it_comes() -> None:
    for total, headers in ((25 * 1024 * 1024, 0), (200_000, 150_000), (15, 0), (20, 8)):
        prelude = struct.pack(">II", total, headers)
        with pytest.raises(UpstreamError) as error:
            EventStreamDecoder().feed(prelude + struct.pack(">I", zlib.crc32(prelude)))
        assert error.value.kind == "cut"


def test_every_damaged_byte_of_an_aws_frame_is_noticed() -> None:
    for at in range(len(VECTOR)):
        damaged = bytearray(VECTOR)
        damaged[at] ^= 0x01
        with pytest.raises(UpstreamError) as error:
            decode(EventStreamDecoder(), bytes(damaged))
        assert error.value.kind == "cut"


def test_an_aws_stream_that_ends_inside_a_frame_is_cut() -> None:
    for cut in range(1, len(VECTOR)):
        with pytest.raises(UpstreamError) as error:
            decode(EventStreamDecoder(), VECTOR[:cut])
        assert error.value.kind == "cut"


def test_a_chunk_that_cannot_be_unwrapped_is_damage() -> None:
    for payload in (b"{}", b"[]", b"no", b'{"bytes":7}', b'{"bytes":"!"}'):
        with pytest.raises(UpstreamError) as error:
            decode(EventStreamDecoder(), aws(payload, message_type="event", event_type="chunk"))
        assert error.value.kind == "cut"
