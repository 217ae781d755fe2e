"""One installation for the whole live suite: every kind of connection, a model for each purpose, a key for each refusal.

A model that shall fail has a deployment of its own (`anthropic-429`), because a deployment that failed is left alone
for a while, and the next test would meet that instead of its own subject.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import UUID

import httpx2
import psycopg
from google import genai

from tests.live.gateway import Gateway, connection_to

Json = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One way to reach a model. `upstream`: a name of tests/upstreams/serve.py."""

    name: str  # of the connection and of the public model
    kind: str
    upstream: str
    model: str
    title: str
    options: Json = field(default_factory=dict)
    embeds: str = ""  # the upstream model that embeds
    capabilities: Json = field(default_factory=dict)  # what the operator of such a server sets on its deployment

    @property
    def language(self) -> str:
        """What is spoken over there, as far as a test must know."""
        return LANGUAGES.get(self.name, LANGUAGES[self.kind])


LANGUAGES = {
    "gemini": "gemini", "vertex": "gemini", "vertex-anthropic": "anthropic_messages", "openai": "chat_completions",
    "gemini_openai": "chat_completions", "azure_openai": "chat_completions", "azure-responses": "responses",
    "openai_responses": "responses", "anthropic": "anthropic_messages", "bedrock": "bedrock_converse",
    "bedrock-invoke": "anthropic_messages",
}  # fmt: skip

KINDS = (
    Kind("gemini", "gemini", "gemini", "gemini-2.5-flash", "gemini", embeds="gemini-embedding-001"),
    Kind("vertex", "vertex", "vertex", "gemini-2.5-flash", "vertex (Gemini)", embeds="gemini-embedding-001"),
    Kind("openai", "openai", "openai", "gpt-4o", "openai", embeds="text-embedding-3-small"),
    Kind("openai-thinking", "openai", "openai", "gpt-5", "openai (reasoning model)", embeds="text-embedding-3-small"),
    Kind("compatible", "openai", "compatible", "qwen3-32b", "openai (compatible server)", embeds="bge-m3",
         capabilities={"max_tokens_field": "max_tokens"}),
    Kind("gemini_openai", "gemini_openai", "gemini_openai", "gemini-2.5-flash", "gemini_openai",
         embeds="gemini-embedding-001"),
    Kind("azure-chat", "azure_openai", "azure_openai", "gpt-4o", "azure_openai (chat)",
         {"api_version": "2024-10-21", "api": "chat"}, embeds="text-embedding-3-small"),
    Kind("azure-responses", "azure_openai", "azure_openai", "gpt-5", "azure_openai (responses)",
         {"api_version": "v1", "api": "responses"}, embeds="text-embedding-3-small"),
    Kind("openai_responses", "openai_responses", "openai_responses", "gpt-5", "openai_responses"),
    Kind("anthropic", "anthropic", "anthropic", "claude-sonnet-4-5", "anthropic"),
    Kind("vertex-anthropic", "vertex", "vertex", "claude-sonnet-4-5@20250929", "vertex (Claude)",
         {"publisher": "anthropic"}),
    Kind("bedrock-invoke", "bedrock", "bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock (InvokeModel)",
         {"api": "invoke"}),
    Kind("bedrock-converse", "bedrock", "bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock (Converse)",
         {"api": "converse"}),
    Kind("bedrock-nova", "bedrock", "bedrock", "amazon.nova-pro-v1:0", "bedrock (Converse, Nova)",
         {"api": "auto"}),
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in KINDS}

# Faults that a deployment is left alone for: each has a deployment and a model of its own, named after it. What the
# caller did wrong is never held against a deployment, and the rest is not tried with every kind.
FAULTS = ("401", "403", "404", "429", "quota", "500", "503", "html", "garbage", "cut", "broken")
RARE_FAULTS = ("413", "nothing", "hang", "stall")
COMMON_KINDS = ("gemini", "openai")
TOLD_KINDS = ("gemini", "openai")  # asked for every fault once more, raw: with models of their own
SHARED = {"400": "", "context": "", "midcut": "-broken", "midbreak": "-broken"}
TRIGGERS = {
    "context": "[[error:400 context]]", "quota": "[[error:429 quota]]", "html": "[[error:502 html]]",
    "garbage": "[[error:200 garbage]]", "nothing": "[[error:200 nothing]]", "hang": "[[hang]]", "cut": "[[cut]]",
    "429": "[[error:429 retry-after=7]]", "midcut": "[[cut:after=2]] [[long:6]]",
    "midbreak": "[[midstream-error:after=2]] [[long:6]]", "stall": "[[long:6]] [[pace:30]]",
}  # fmt: skip
PATIENCE = {"hang": {"first_byte_timeout": 0.4}, "stall": {"idle_timeout": 0.4}}  # seconds


def model_for(kind: str, fault: str) -> str:
    """The model of this kind that such a fault is tried with."""
    return kind + SHARED.get(fault, f"-{fault}") if fault else kind


def embedder(kind: str) -> str:
    """The model of this kind that embeds. google-genai has ways of its own with names that have gemini in them."""
    return f"vectors-{kind.replace('gemini', 'google')}"


def trigger(fault: str) -> str:
    """The prompt that makes an upstream fail so."""
    return TRIGGERS.get(fault) or f"[[error:{fault}]]"


WATCHER = "whoever-reads-metrics"  # METRICS_TOKEN


def connections(vendors: Callable[[str], Any]) -> list[Json]:
    made = []
    for kind in KINDS:
        vendor = vendors(kind.upstream)
        found = connection_to(vendor, kind.upstream, kind.name)
        found["kind"] = kind.kind
        found["options"] = {**found.get("options", {}), **kind.options}
        made.append(found)
    return made


def models() -> list[Json]:
    made: list[Json] = []
    for kind in KINDS:
        deployment = {"connection": kind.name, "upstream_model": kind.model, "capabilities": kind.capabilities}
        made.append({"name": kind.name, "unpriced": "serve", "deployments": [deployment]})
        made += [
            {
                "name": f"{kind.name}-{fault}",
                "unpriced": "serve",
                "deployments": [deployment | PATIENCE.get(fault, {})],
            }
            for fault in (*FAULTS, *(RARE_FAULTS if kind.name in COMMON_KINDS else ()))
        ]
        made += [
            {
                "name": f"{kind.name}-told-{fault}",
                "unpriced": "serve",
                "deployments": [deployment | PATIENCE.get(fault, {})],
            }
            for fault in (("400", "context", *FAULTS, *RARE_FAULTS) if kind.name in TOLD_KINDS else ())
        ]
        if kind.embeds:
            embeds = [{"connection": kind.name, "upstream_model": kind.embeds}]
            made.append({"name": embedder(kind.name), "unpriced": "serve", "deployments": embeds})
    exact = [
        {"connection": name, "upstream_model": BY_NAME[name].model, "exact_token_count": True}
        for name in ("gemini", "anthropic")
    ]
    return [
        *made,
        *({"name": f"exact-{each['connection']}", "deployments": [each], "unpriced": "serve"} for each in exact),
        {
            "name": "vendor/plain:v1",
            "aliases": ["fast", "vendor/alias:v2"],
            "deployments": _gemini(),
            "unpriced": "serve",
        },
        {"name": "gemini-able", "deployments": _gemini(), "unpriced": "serve"},
        {"name": "secret-model", "aliases": ["not-so-secret"], "deployments": _gemini(), "unpriced": "serve"},
        {"name": "strict-model", "strict_fields": True, "deployments": _openai(), "unpriced": "serve"},
        {"name": "watched", "deployments": _gemini(), "unpriced": "serve"},
        {"name": "empty-model", "deployments": [], "unpriced": "serve"},
    ]


def _gemini() -> list[Json]:
    return [{"connection": "gemini", "upstream_model": "gemini-2.5-flash"}]


def _openai() -> list[Json]:
    return [{"connection": "openai", "upstream_model": "gpt-4o"}]


def keys() -> list[Json]:
    more: dict[str, Json] = {
        "ci": {},
        "expired": {},
        "revoked": {},
        "disabled": {},
        "elsewhere": {"networks": ["203.0.113.0/24"]},
        "counts-only": {"scopes": ["countTokens"]},
        "no-secrets": {"denied_models": ["secret-*"]},
        "only-gemini": {"allowed_models": ["gemini*", "missing-allowed"]},
        "strict": {"strict_fields": True},
        "logged": {"log_bodies": True},
    }
    return [{"organization": "acme", "name": name, **fields} for name, fields in more.items()]


def configuration(vendors: Callable[[str], Any]) -> Json:
    return {
        "organizations": [{"slug": "acme", "name": "Acme"}],
        "connections": connections(vendors),
        "models": models(),
        "keys": keys(),
    }


@dataclass
class World:
    """The running installation, and the vendors behind it."""

    gateway: Gateway
    vendors: Callable[[str], Any]

    @property
    def url(self) -> str:
        return self.gateway.url

    @property
    def keys(self) -> dict[str, str]:
        return self.gateway.keys

    def vendor(self, kind: Kind | str) -> Any:
        """The upstream behind a kind, with nothing remembered."""
        found = self.vendors(kind.upstream if isinstance(kind, Kind) else kind)
        found.forget()
        return found

    @cached_property
    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=30)

    @cached_property
    def client(self) -> genai.Client:
        """google-genai as it comes out of the box: /v1."""
        return genai.Client(api_key=self.keys["ci"], http_options={"base_url": self.url})

    def ask(self, model: str, action: str = "generateContent", body: Any = None, key: str = "ci", **more: Any) -> Any:
        """One raw call; an httpx2 response."""
        headers = {"x-goog-api-key": self.keys[key]} | more.pop("headers", {})
        url = f"/v1beta/models/{model}:{action}"
        return self.http.post(url, json=saying("Hi") if body is None else body, headers=headers, **more)

    def well(self, model: str) -> str:
        """The model, after an answer from it: what fails five times in a row is left alone for a while."""
        answer = self.ask(model)
        assert answer.status_code == 200, answer.text
        return model

    def close(self) -> None:
        for made in ("http", "client"):
            if made in self.__dict__:
                self.__dict__[made].close()


def saying(text: str, **more: Any) -> Json:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **more}


COLUMNS = (
    "id", "action", "model", "requested_model", "http_status", "status", "stream", "error", "finish_reason",
    "prompt_tokens", "cached_tokens", "output_tokens", "thoughts_tokens", "backend", "dropped", "attempts", "flags", "key",
    "label", "cost_nano",
)  # fmt: skip


def rows(gateway: Gateway, ids: Collection[str] | None = None) -> list[Json]:
    """Every request record there is, or those of these calls, read past the product."""
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    asked = f"SELECT {names} FROM usage_requestrecord"
    if url := gateway.environment.get("DATABASE_URL"):
        with psycopg.connect(url) as connection:
            wanted, given = ("", ()) if ids is None else (" WHERE id = ANY(%s)", (list(map(UUID, ids)),))
            found = connection.execute((asked + wanted).encode(), given).fetchall()
    else:
        import sqlite3  # noqa: PLC0415 - only where the run is embedded

        with sqlite3.connect(gateway.data_dir / "gatehouse.sqlite3") as database:
            wanted = "" if ids is None else f" WHERE id IN ({', '.join(repr(UUID(each).hex) for each in ids)})"
            found = database.execute(asked + wanted).fetchall()
        database.close()
    return [_typed(dict(zip(COLUMNS, row, strict=True))) for row in found]


def _typed(row: Json) -> Json:
    row["id"] = _with_dashes(str(row["id"]))
    for name in ("dropped", "attempts", "flags"):
        if isinstance(row[name], str):
            row[name] = json.loads(row[name])
    return row


def _with_dashes(text: str) -> str:
    text = text.replace("-", "")
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def recorded(gateway: Gateway, ids: Iterable[str], patience: float = 20.0) -> dict[str, Json]:
    """The records of these calls, by id, once the ledger has brought them all in. Raises AssertionError."""
    wanted = set(ids)
    deadline = time.monotonic() + patience
    while True:
        found = {row["id"]: row for row in rows(gateway, wanted)}
        if found.keys() == wanted:
            return found
        missing = wanted - found.keys()
        assert time.monotonic() < deadline, (
            f"{len(missing)} of {len(wanted)} calls have no record: {sorted(missing)[:5]}"
        )
        time.sleep(0.02)  # the ledger brings them in twice a second, or all the time (LOOKING_OFTEN)
