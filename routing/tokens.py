"""Short-lived tokens for lasting credentials: fetched off the loop, kept until shortly before they expire.

One fetch at a time per credential, however many calls wait for it; while the old token still lasts nobody waits.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from lib import json
from routing import addresses, http1
from routing.backends.base import Endpoint
from routing.errors import UpstreamError

REFRESH = 240.0  # seconds before its end a token is renewed in the background (google-auth itself: 225)
LAST_USE = 20.0  # seconds before its end a token is no longer sent
AFTER_FAILURE = 5.0  # seconds in which a failed fetch is not tried again
TIMEOUT = 10.0  # seconds for one fetch
MAX_ANSWER = 64 * 1024  # bytes


class TokenRefused(Exception):
    """No token. The text is a sentence for an operator and holds no secret."""


@dataclass(frozen=True, slots=True)
class Token:
    value: str = field(repr=False)
    until: float  # time.monotonic() seconds

    @classmethod
    def lasting(cls, value: str, seconds: float) -> Token:
        return cls(value, time.monotonic() + seconds)


Fetch = Callable[[], Token]

_tokens: dict[str, Token] = {}
_failures: dict[str, tuple[float, str]] = {}
_fetching: dict[tuple[int, str], asyncio.Task[Token]] = {}


async def token(endpoint: Endpoint, fetch: Fetch) -> str:
    """The token for this endpoint's credential. `fetch` blocks, and runs in a thread.

    Raises UpstreamError (kind "credential", nothing sent).
    """
    key = _key(endpoint)
    held, now = _tokens.get(key), time.monotonic()
    if held is not None and held.until - now > REFRESH:
        return held.value
    usable = held is not None and held.until - now > LAST_USE
    failed_at, why = _failures.get(key, (-AFTER_FAILURE, ""))
    if now - failed_at < AFTER_FAILURE:
        if held is not None and usable:
            return held.value
        raise UpstreamError("credential", why, sent=False)
    task = _task(key, fetch)
    if held is not None and usable:
        return held.value
    try:
        # Shielded: the call that happens to have started the fetch may be cancelled, the others still wait for it.
        return (await asyncio.shield(task)).value
    except TokenRefused as error:
        raise UpstreamError("credential", str(error), sent=False) from error


def forget() -> None:
    """Drop every token and every remembered failure."""
    _tokens.clear()
    _failures.clear()


def _key(endpoint: Endpoint) -> str:
    """Over the whole credential: never a part of it, or two of them could share a token."""
    parts = [endpoint.kind, dict(endpoint.credential), endpoint.options.get("scope", ""), endpoint.allow_private]
    return hashlib.sha256(json.canonical(parts)).hexdigest()


def _task(key: str, fetch: Fetch) -> asyncio.Task[Token]:
    place = (id(asyncio.get_running_loop()), key)
    task = _fetching.get(place)
    if task is None:
        task = _fetching[place] = asyncio.create_task(_fetch(key, fetch), name="token")
        task.add_done_callback(lambda done: _finished(place, done))
    return task


def _finished(place: tuple[int, str], task: asyncio.Task[Token]) -> None:
    _fetching.pop(place, None)
    if not task.cancelled():
        task.exception()  # heard: perhaps nobody waits for it any more


async def _fetch(key: str, fetch: Fetch) -> Token:
    try:
        fresh = await asyncio.to_thread(fetch)
    except TokenRefused as error:
        _failures[key] = (time.monotonic(), str(error))
        raise
    except Exception as error:
        _failures[key] = (time.monotonic(), f"No token could be fetched ({type(error).__name__}).")
        raise TokenRefused(_failures[key][1]) from error
    _failures.pop(key, None)
    now = time.monotonic()
    for stale in [each for each, kept in _tokens.items() if kept.until < now]:
        del _tokens[stale]
    _tokens[key] = fresh
    return fresh


# ---- asking for one, guarded (blocking: for threads)


def post_form(url: str, form: Mapping[str, str], *, allow_private: bool) -> dict[str, Any]:
    """POST a form to a token endpoint; its JSON answer. Raises TokenRefused."""
    status, _headers, body = exchange(url, data=form, allow_private=allow_private)
    try:
        answer = json.loads(body)
    except json.JSONDecodeError:
        answer = None
    host = urlsplit(url).hostname
    if status != 200 or not isinstance(answer, dict) or "access_token" not in answer:
        code = answer.get("error", "") if isinstance(answer, dict) else ""
        said = f" {code}" if isinstance(code, str) and code.isascii() and len(code) < 60 else ""
        raise TokenRefused(f"{host} gave no token: {status}{said}.")
    return answer


def exchange(
    url: str,
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
    content: bytes | None = None,
    allow_private: bool,
    timeout: float = TIMEOUT,
) -> tuple[int, Mapping[str, str], bytes]:
    """One request to a checked address: no redirects, no proxy from the environment. Raises TokenRefused."""
    parts = urlsplit(url)
    try:
        addresses.check_url(url, allow_private)
        host = parts.hostname or ""
        address = _address(host, parts.port or 443, allow_private)
        pinned = httpx2.URL(url).copy_with(host=address)
        with (
            httpx2.Client(
                trust_env=False, follow_redirects=False, timeout=timeout, verify=http1.tls_context()
            ) as client,
            client.stream(
                method,
                pinned,
                headers={**(headers or {}), "host": parts.netloc},
                data=data,
                content=content,
                extensions={"sni_hostname": host},
            ) as answer,
        ):
            body = b""
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > MAX_ANSWER:
                    raise TokenRefused(f"{host} answered with more than {MAX_ANSWER} bytes.")
            return answer.status_code, dict(answer.headers), body
    except addresses.AddressRefused as error:
        raise TokenRefused(f"The token endpoint is refused: {error}") from error
    except (httpx2.HTTPError, OSError) as error:
        raise TokenRefused(f"{parts.hostname} cannot be reached for a token ({type(error).__name__}).") from error


def _address(host: str, port: int, allow_private: bool) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return addresses.allowed([str(each[4][0]) for each in found], host, allow_private)[0]
