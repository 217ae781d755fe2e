"""Events and deployments as the tests of this room need them: everything has a default."""

from __future__ import annotations

import time
from typing import Any

from keys.context import KeyContext
from lib.ids import uuid7
from routing.backends.base import Backend, Endpoint
from routing.catalog import DeploymentEntry, Timeouts
from usage.event import Tokens, UsageEvent


def event(**given: Any) -> UsageEvent:
    """A finished call of one key at 10 nano-dollars a token."""
    started = given.pop("started_ms", time.time_ns() // 1_000_000)
    tokens = given.pop("tokens", Tokens(prompt=100, candidates=20))
    values: dict[str, Any] = {
        "call_id": str(uuid7(started)),
        "started_ms": started,
        "organization_id": "org-1",
        "organization": "Acme",
        "key_id": "key-1",
        "key": "ci",
        "action": "generateContent",
        "model": "gemini-2.5-flash",
        "http_status": 200,
        "status": "OK",
        "tokens": tokens,
        "cost_nano": tokens.total * 10,
        "total_ms": 120,
        "ttft_ms": 40,
    }
    return UsageEvent(**(values | given))


def key(**given: Any) -> KeyContext:
    values: dict[str, Any] = {
        "key_id": "key-1",
        "key_name": "ci",
        "secret_id": "secret-1",
        "organization_id": "org-1",
        "organization": "Acme",
    }
    return KeyContext(**(values | given))


class Priced(Backend):
    label = "Priced"
    language = "chat_completions"
    price_provider = "openai"


class Unlisted(Backend):
    label = "Unlisted"
    language = "chat_completions"


def deployment(**given: Any) -> DeploymentEntry:
    values: dict[str, Any] = {
        "id": "deployment-1",
        "name": "gpt-4o at openai-main",
        "model": "gemini-2.5-flash",
        "connection": "openai-main",
        "kind": "openai",
        "backend": Priced(),
        "endpoint": Endpoint(kind="openai", base_url="http://127.0.0.1:1", model="gpt-4o"),
        "upstream_model": "gpt-4o",
        "base_model": "",
        "timeouts": Timeouts(1, 1, 1, 1),
        "version": str(uuid7()),
    }
    return DeploymentEntry(**(values | given))
