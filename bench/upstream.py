"""A fast provider for measurements: canned bytes, no work per call. Raw asyncio, so that it is never the bottleneck.

Speaks every language the gateway does, chosen by the path. A stream is CHUNKS pieces, PACE seconds apart.
    python -m bench.upstream PORT
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import sys
import zlib

import uvloop

CHUNKS, PACE = 50, 0.005
TEXT = "The quick brown fox jumps over the lazy dog and then rests. "


def dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def sse(*events: object, named: bool = False) -> list[bytes]:
    out = []
    for event in events:
        head = b"event: " + event["type"].encode() + b"\n" if named and isinstance(event, dict) else b""
        out.append(head + b"data: " + (event if isinstance(event, bytes) else dumps(event)) + b"\n\n")
    return out


def aws(name: str, payload: object) -> bytes:
    def header(key: str, value: str) -> bytes:
        return bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()

    headers = (
        header(":event-type", name) + header(":content-type", "application/json") + header(":message-type", "event")
    )
    body = dumps(payload)
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    message = prelude + headers + body
    return message + struct.pack(">I", zlib.crc32(message))


def gemini(text: str, last: bool) -> dict:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if last:
        candidate["finishReason"] = "STOP"
    usage = {"promptTokenCount": 15, "candidatesTokenCount": 14, "totalTokenCount": 29}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "bench", "responseId": "r1"}


def chat_chunk(delta: dict, finish: str | None = None) -> dict:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "bench",
        "choices": [choice],
        "usage": None,
    }


CHAT_USAGE = {"prompt_tokens": 15, "completion_tokens": 14, "total_tokens": 29}
ANTHROPIC_USAGE = {"input_tokens": 15, "output_tokens": 14}
RESPONSES_USAGE = {"input_tokens": 15, "output_tokens": 14, "total_tokens": 29}
MESSAGE = {"id": "m1", "type": "message", "role": "assistant", "model": "bench", "stop_sequence": None}
RESPONSE = {"id": "r1", "object": "response", "model": "bench", "error": None, "incomplete_details": None}
OUTPUT = {
    "type": "message",
    "id": "i1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
}

UNARY = {
    "gemini": dumps(gemini(TEXT, True)),
    "chat": dumps({"id": "c1", "object": "chat.completion", "created": 1, "model": "bench", "usage": CHAT_USAGE,
                   "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}]}),
    "responses": dumps({**RESPONSE, "status": "completed", "output": [OUTPUT], "usage": RESPONSES_USAGE}),
    "anthropic": dumps({**MESSAGE, "content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn", "usage": ANTHROPIC_USAGE}),
    "converse": dumps({"output": {"message": {"role": "assistant", "content": [{"text": TEXT}]}}, "stopReason": "end_turn",
                       "usage": {"inputTokens": 15, "outputTokens": 14, "totalTokens": 29}, "metrics": {"latencyMs": 1}}),
}  # fmt: skip


def delta_events() -> dict[str, list[bytes]]:
    texts = [TEXT] * CHUNKS
    anthropic = [
        {
            "type": "message_start",
            "message": {
                **MESSAGE,
                "content": [],
                "stop_reason": None,
                "usage": {"input_tokens": 15, "output_tokens": 1},
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts],
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 14},
        },
        {"type": "message_stop"},
    ]
    responses = [
        {
            "type": "response.created",
            "sequence_number": 0,
            "response": {**RESPONSE, "status": "in_progress", "output": []},
        },
        {
            "type": "response.output_item.added",
            "sequence_number": 1,
            "output_index": 0,
            "item": {**OUTPUT, "content": []},
        },
        *[
            {
                "type": "response.output_text.delta",
                "sequence_number": 2,
                "item_id": "i1",
                "output_index": 0,
                "content_index": 0,
                "delta": text,
            }
            for text in texts
        ],
        {"type": "response.output_item.done", "sequence_number": 3, "output_index": 0, "item": OUTPUT},
        {
            "type": "response.completed",
            "sequence_number": 4,
            "response": {**RESPONSE, "status": "completed", "output": [OUTPUT], "usage": RESPONSES_USAGE},
        },
    ]
    converse = [
        aws("messageStart", {"role": "assistant"}),
        *[aws("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}) for text in texts],
        aws("contentBlockStop", {"contentBlockIndex": 0}),
        aws("messageStop", {"stopReason": "end_turn"}),
        aws(
            "metadata",
            {"usage": {"inputTokens": 15, "outputTokens": 14, "totalTokens": 29}, "metrics": {"latencyMs": 1}},
        ),
    ]
    return {
        "gemini": sse(*[gemini(text, at == CHUNKS - 1) for at, text in enumerate(texts)]),
        "chat": sse(*[chat_chunk({"content": text}) for text in texts], chat_chunk({}, "stop"),
                    {**chat_chunk({}), "choices": [], "usage": CHAT_USAGE}, b"[DONE]"),
        "anthropic": sse(*anthropic, named=True),
        "responses": sse(*responses, named=True),
        "converse": converse,
        "invoke": [aws("chunk", {"bytes": base64.b64encode(dumps(event)).decode()}) for event in anthropic],
    }  # fmt: skip


STREAMS = delta_events()


def language(path: str) -> tuple[str, bool]:
    """Which canned answer, and whether as a stream (the body decides where the path does not)."""
    if "converse" in path:
        return "converse", path.endswith("converse-stream")
    if "invoke" in path:
        return ("invoke", True) if "stream" in path else ("anthropic", False)
    if path.endswith("/chat/completions"):
        return "chat", False
    if path.endswith("/responses"):
        return "responses", False
    if path.endswith("/messages"):
        return "anthropic", False
    return "gemini", "streamGenerateContent" in path


class Connection(asyncio.Protocol):
    """Just enough HTTP/1.1 for clients that send well-formed requests with a Content-Length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(head.split(b" ", 2)[1].split(b"?")[0].decode(), body)

    def answer(self, path: str, body: bytes) -> None:
        name, streamed = language(path)
        if streamed or b'"stream":true' in body:
            asyncio.get_running_loop().create_task(self.stream(STREAMS[name], name in ("converse", "invoke")))
            return
        payload = UNARY[name]
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(payload) + payload
        )

    async def stream(self, events: list[bytes], binary: bool) -> None:
        kind = b"application/vnd.amazon.eventstream" if binary else b"text/event-stream"
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in events:
            if self.transport.is_closing():
                return
            self.transport.write(b"%x\r\n" % len(event) + event + b"\r\n")
            await asyncio.sleep(PACE)
        self.transport.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
