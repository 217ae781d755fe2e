"""Anthropic Messages: a key header and a version header of its own."""

from __future__ import annotations

from typing import ClassVar

from routing.backends.base import Action, Backend, Endpoint, Option, versioned

PATHS: dict[Action, str] = {"generate": "messages", "stream": "messages", "count": "messages/count_tokens"}
VERSION = "2023-06-01"


class Anthropic(Backend):
    label = "Anthropic Messages"
    language = "anthropic_messages"
    base_url = "https://api.anthropic.com"
    base_url_help = "With or without /v1 at its end: v1 is added when there is no version."
    options = (
        Option("anthropic_version", "API version", "Sent as anthropic-version.", default=VERSION),
        Option("anthropic_beta", "Beta features", "Comma between; sent as anthropic-beta."),
    )
    actions: ClassVar[frozenset[Action]] = frozenset({"generate", "stream", "count"})
    price_provider = "anthropic"

    def url(self, endpoint: Endpoint, action: Action) -> str:
        return f"{versioned(endpoint.base_url, 'v1')}/{PATHS[action]}"

    def headers(self, endpoint: Endpoint) -> dict[str, str]:
        headers = {
            "x-api-key": endpoint.credential["api_key"],
            "anthropic-version": endpoint.options.get("anthropic_version") or VERSION,
        }
        if beta := endpoint.options.get("anthropic_beta"):
            headers["anthropic-beta"] = beta
        return headers


backend = Anthropic()
