"""OpenAI Responses: the same account as Chat Completions, another language."""

from __future__ import annotations

from typing import ClassVar

from routing.backends.base import Action, Backend, CredentialField, Endpoint
from routing.backends.openai import ACCOUNT_OPTIONS, account_headers

PATHS: dict[Action, str] = {"generate": "responses", "stream": "responses", "count": "responses/input_tokens"}


class OpenAIResponses(Backend):
    label = "OpenAI Responses"
    language = "responses"
    base_url = "https://api.openai.com/v1"
    base_url_help = "Includes the version: https://api.openai.com/v1."
    options = ACCOUNT_OPTIONS
    credential_fields = (CredentialField("api_key", "API key"),)
    actions: ClassVar[frozenset[Action]] = frozenset({"generate", "stream", "count"})
    price_provider = "openai"

    def url(self, endpoint: Endpoint, action: Action) -> str:
        return f"{endpoint.base_url}/{PATHS[action]}"

    def headers(self, endpoint: Endpoint) -> dict[str, str]:
        return account_headers(endpoint)


backend = OpenAIResponses()
