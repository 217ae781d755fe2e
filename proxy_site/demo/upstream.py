"""A small provider to play with: Gemini and Chat Completions on the wire, deterministic, without any model behind it.

What it answers follows from the last user text. Triggers anywhere in it change that:
    [[error:429]]  [[error:503]]   that HTTP status          [[delay:2]]   wait two seconds first
    [[long:40]]    forty pieces                               [[tool]]      call the first declared function
    [[cut]]        break the stream off after two pieces
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
TRIGGER = re.compile(r"\[\[(error|delay|long|tool|cut)(?::([\d.]+))?\]\]")
WORDS = [
    "The",
    "demo",
    "upstream",
    "heard",
    "you.",
    "It",
    "has",
    "no",
    "model",
    "behind",
    "it,",
    "so",
    "it",
    "can",
    "only",
    "say",
    "this,",
    "and",
    "count",
    "its",
    "words",
]
PACE = 0.02  # seconds between pieces


@dataclass(frozen=True)
class Plan:
    """What to answer."""

    pieces: list[str]
    error: int = 0
    delay: float = 0.0
    call: str = ""
    cut: bool = False
    prompt_tokens: int = 1

    @property
    def output_tokens(self) -> int:
        return max(1, sum(len(piece) for piece in self.pieces) // 4)


def plan(text: str, functions: list[str], answered: bool, prompt_size: int) -> Plan:
    said = dict(TRIGGER.findall(text))
    asked = TRIGGER.sub("", text).strip()
    if answered:
        pieces = ["Thank you. ", "The function answered, ", "and that settles it."]
    elif "long" in said:
        pieces = [f"{WORDS[at % len(WORDS)]} " for at in range(min(int(float(said["long"] or 20)), 2000))]
    else:
        pieces = [
            f"You said: {asked[:200]} " if asked else "Hello. ",
            " ".join(WORDS[:6]),
            " ",
            " ".join(WORDS[6:]),
            ".",
        ]
    return Plan(
        pieces=pieces,
        error=int(float(said.get("error", 0) or 0)),
        delay=min(float(said.get("delay", 0) or 0), 30.0),
        call=functions[0] if "tool" in said and functions and not answered else "",
        cut="cut" in said,
        prompt_tokens=max(1, prompt_size // 4),
    )


async def app(scope: Json, receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    path: str = scope["path"]
    if path.endswith("/chat/completions"):
        await chat(json.loads(body), len(body), send)
    elif ":" in path:
        await gemini(path, json.loads(body), len(body), b"alt=sse" in scope["query_string"], send)
    else:
        await reply(send, 404, {"error": {"code": 404, "message": "Not here.", "status": "NOT_FOUND"}})


async def gemini(path: str, body: Json, size: int, sse: bool, send: Any) -> None:
    model, action = path.rsplit("/", 1)[1].rsplit(":", 1)
    if action == "countTokens":
        await reply(send, 200, {"totalTokens": max(1, size // 4)})
        return
    parts = [part for content in body.get("contents", []) for part in content.get("parts", [])]
    functions = [each["name"] for tool in body.get("tools", []) for each in tool.get("functionDeclarations", [])]
    text = next((part["text"] for part in reversed(parts) if "text" in part), "")
    answered = bool(parts) and "functionResponse" in parts[-1]
    wanted = plan(text, functions, answered, size)
    await asyncio.sleep(wanted.delay)
    if wanted.error:
        error = {"code": wanted.error, "message": "The demo upstream was asked to fail.", "status": "UNAVAILABLE"}
        await reply(send, wanted.error, {"error": error})
        return
    usage = {
        "promptTokenCount": wanted.prompt_tokens,
        "candidatesTokenCount": wanted.output_tokens,
        "totalTokenCount": wanted.prompt_tokens + wanted.output_tokens,
    }

    def chunk(parts: list[Json], last: bool = False) -> Json:
        candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0}
        if last:
            candidate["finishReason"] = "STOP"
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": "demo"}

    ends: list[Json] = [{"functionCall": {"name": wanted.call, "args": {}}}] if wanted.call else [{"text": ""}]
    if action == "generateContent":
        whole = ends if wanted.call else [{"text": "".join(wanted.pieces)}]
        await reply(send, 200, chunk(whole, last=True))
        return
    texts = [] if wanted.call else wanted.pieces
    chunks = [chunk([{"text": text}]) for text in texts] + [chunk(ends, last=True)]
    await stream(send, chunks, wanted, done=b"")


async def chat(body: Json, size: int, send: Any) -> None:
    messages = body.get("messages", [])
    functions = [tool["function"]["name"] for tool in body.get("tools", [])]
    content = next((each.get("content") for each in reversed(messages) if each.get("role") == "user"), "")
    text = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content or [])
    answered = bool(messages) and messages[-1].get("role") == "tool"
    wanted = plan(text, functions, answered, size)
    await asyncio.sleep(wanted.delay)
    if wanted.error:
        await reply(
            send, wanted.error, {"error": {"message": "The demo upstream was asked to fail.", "type": "server_error"}}
        )
        return
    usage = {
        "prompt_tokens": wanted.prompt_tokens,
        "completion_tokens": wanted.output_tokens,
        "total_tokens": wanted.prompt_tokens + wanted.output_tokens,
    }
    head = {"id": "demo", "created": 0, "model": body.get("model", "demo")}
    call = {"index": 0, "id": "call_demo", "type": "function", "function": {"name": wanted.call, "arguments": "{}"}}
    reason = "tool_calls" if wanted.call else "stop"
    if not body.get("stream"):
        message: Json = {"role": "assistant", "content": None if wanted.call else "".join(wanted.pieces)}
        if wanted.call:
            message["tool_calls"] = [{name: value for name, value in call.items() if name != "index"}]
        choice = {"index": 0, "message": message, "finish_reason": reason}
        await reply(send, 200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        return

    def chunk(delta: Json, finish: str | None = None) -> Json:
        return {
            **head,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }

    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({"tool_calls": [call]})] if wanted.call else [chunk({"content": text}) for text in wanted.pieces]
    chunks += [chunk({}, reason), {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}]
    await stream(send, chunks, wanted, done=b"data: [DONE]\n\n")


async def reply(send: Any, status: int, body: Json) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def stream(send: Any, chunks: Iterable[Json], wanted: Plan, done: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    async for at, piece in paced(chunks):
        if wanted.cut and at == 2:
            raise ConnectionAbortedError("The demo upstream was asked to break off.")
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": done})


async def paced(chunks: Iterable[Json]) -> AsyncIterator[tuple[int, bytes]]:
    for at, chunk in enumerate(chunks):
        yield at, b"data: " + json.dumps(chunk).encode() + b"\n\n"
        await asyncio.sleep(PACE)
