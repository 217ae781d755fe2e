"""OpenAI Chat Completions, and every server that imitates it: one row with its base URL."""

from __future__ import annotations

from typing import ClassVar

from routing.backends.base import Action, Backend, CredentialField, Endpoint, Option

PATHS: dict[Action, str] = {"generate": "chat/completions", "stream": "chat/completions", "embed": "embeddings"}

ACCOUNT_OPTIONS = (
    Option("organization", "OpenAI organization", "Sent as OpenAI-Organization."),
    Option("project", "OpenAI project", "Sent as OpenAI-Project."),
)


def account_headers(endpoint: Endpoint) -> dict[str, str]:
    """The key, and who pays when an account has several organizations or projects."""
    headers = {}
    if key := endpoint.credential.get("api_key"):
        headers["authorization"] = f"Bearer {key}"
    if organization := endpoint.options.get("organization"):
        headers["openai-organization"] = organization
    if project := endpoint.options.get("project"):
        headers["openai-project"] = project
    return headers


class OpenAI(Backend):
    label = "OpenAI Chat Completions (and compatible servers)"
    language = "chat_completions"
    base_url = "https://api.openai.com/v1"
    base_url_help = "Includes the version: https://api.openai.com/v1, http://vllm.internal:8000/v1."
    options = ACCOUNT_OPTIONS
    credential_fields = (
        CredentialField("api_key", "API key", required=False, help="A server of your own may need none."),
    )
    actions: ClassVar[frozenset[Action]] = frozenset({"generate", "stream", "embed"})
    price_provider = "openai"

    def url(self, endpoint: Endpoint, action: Action) -> str:
        return f"{endpoint.base_url}/{PATHS[action]}"

    def headers(self, endpoint: Endpoint) -> dict[str, str]:
        return account_headers(endpoint)


backend = OpenAI()
