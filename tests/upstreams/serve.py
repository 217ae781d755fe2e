"""Start an upstream on a free loopback port: `with serve(OpenAI()) as upstream: ... upstream.url`.

By hand, for a gateway that runs somewhere else on this machine: `python -m tests.upstreams.serve openai 9100`.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.upstreams.anthropic import Anthropic
from tests.upstreams.asgi import Upstream
from tests.upstreams.bedrock import Bedrock
from tests.upstreams.chat import Azure, Compatible, GeminiOpenAI, OpenAI
from tests.upstreams.gemini import Gemini
from tests.upstreams.responses import OpenAIResponses
from tests.upstreams.vertex import Vertex

# By the kind of connection that talks to it; "compatible" is a connection of kind openai.
UPSTREAMS: dict[str, type[Upstream]] = {
    "gemini": Gemini,
    "openai": OpenAI,
    "compatible": Compatible,
    "openai_responses": OpenAIResponses,
    "azure_openai": Azure,
    "gemini_openai": GeminiOpenAI,
    "anthropic": Anthropic,
    "bedrock": Bedrock,
    "vertex": Vertex,
}
U = TypeVar("U", bound=Upstream)


class Droppable(HttpToolsProtocol):
    """uvicorn's protocol, with a way for the app to close the socket in the middle of an answer."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"drop": self.transport.close}  # type: ignore[dict-item]  # ours: a function


def _open(upstream: Upstream, port: int) -> tuple[uvicorn.Server, socket.socket]:
    """The server, and its socket that listens already: who connects now waits in its queue until the loop runs."""
    listening = socket.create_server(("127.0.0.1", port), backlog=2048)
    upstream.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    quiet: dict[str, Any] = {"log_level": "critical", "access_log": False}
    config = uvicorn.Config(upstream, http=Droppable, ws="none", lifespan="off", timeout_keep_alive=60, **quiet)
    return uvicorn.Server(config), listening


@contextmanager
def serve(upstream: U, port: int = 0) -> Iterator[U]:
    """In a thread of this process, so that a test reads `requests` and `billed` directly."""
    server, listening = _open(upstream, port)
    thread = threading.Thread(target=server.run, args=([listening],), name=type(upstream).__name__, daemon=True)
    thread.start()
    try:
        yield upstream
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)
        listening.close()


def main(name: str, port: str = "0") -> None:
    upstream = UPSTREAMS[name]()
    server, listening = _open(upstream, int(port))
    print(f"{name} on {upstream.url}", flush=True)
    server.run([listening])


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in UPSTREAMS:
        main(*sys.argv[1:3])
    else:
        sys.exit(f"usage: python -m tests.upstreams.serve NAME [PORT], NAME being one of {', '.join(UPSTREAMS)}")
