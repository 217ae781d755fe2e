"""What everything is compared with: a bare uvicorn + pyreqwest relay that knows nothing and forwards bytes.

UPSTREAM=http://127.0.0.1:9000 python -m bench.relay PORT
"""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn
from pyreqwest.client import Client, ClientBuilder

UPSTREAM = os.environ.get("UPSTREAM", "")
_client: list[Client] = []


def client() -> Client:
    if not _client:
        _client.append(ClientBuilder().no_proxy().follow_redirects(False).pool_max_idle_per_host(512).build())
    return _client[0]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    path = scope["raw_path"].decode()
    if scope["query_string"]:
        path += "?" + scope["query_string"].decode()
    request = client().post(UPSTREAM + path).headers({"content-type": "application/json"}).body_bytes(body)
    streamed = "stream" in path or b'"stream":true' in body
    if not streamed:
        response = await request.build().send()
        answer = bytes(await response.bytes())
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": response.status, "headers": head})
        await send({"type": "http.response.body", "body": answer})
        return
    async with request.streamed_read_buffer_limit(1).build_streamed() as response:
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": response.status, "headers": head})
        while (chunk := await response.body_reader.read_chunk()) is not None:
            await send({"type": "http.response.body", "body": bytes(chunk), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        lifespan="off",
    )
