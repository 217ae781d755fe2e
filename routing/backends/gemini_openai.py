"""Gemini's OpenAI-compatible endpoint: Google's key as a bearer, OpenAI's language with Google's habits."""

from __future__ import annotations

from typing import ClassVar

from routing.backends.base import Action, Backend, Endpoint, versioned
from routing.backends.openai import PATHS


class GeminiOpenAI(Backend):
    label = "Gemini (OpenAI-compatible endpoint)"
    language = "chat_completions"
    base_url = "https://generativelanguage.googleapis.com/v1beta/openai"
    base_url_help = "With or without /v1beta/openai at its end."
    actions: ClassVar[frozenset[Action]] = frozenset({"generate", "stream", "embed"})
    price_provider = "google"

    def embeds_at_once(self, endpoint: Endpoint) -> int:
        return 100

    def url(self, endpoint: Endpoint, action: Action) -> str:
        base = endpoint.base_url
        if not base.endswith("/openai"):
            base = f"{versioned(base, 'v1beta')}/openai"
        return f"{base}/{PATHS[action]}"


backend = GeminiOpenAI()
