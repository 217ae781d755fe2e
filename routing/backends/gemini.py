"""Gemini native (Developer API): the model in the path, the key in a header of its own."""

from __future__ import annotations

from typing import Any, ClassVar

from routing.backends.base import Action, Backend, CredentialField, Endpoint, segment, versioned

METHODS: dict[Action, str] = {
    "generate": "generateContent",
    "stream": "streamGenerateContent?alt=sse",
    "count": "countTokens",
    "embed": "batchEmbedContents",
}


class Gemini(Backend):
    label = "Gemini"
    language = "gemini"
    base_url = "https://generativelanguage.googleapis.com"
    base_url_help = "With or without /v1beta at its end: v1beta is added when there is no version."
    credential_fields = (CredentialField("api_key", "API key"),)
    actions: ClassVar[frozenset[Action]] = frozenset({"generate", "stream", "count", "embed"})
    price_provider = "google"

    def url(self, endpoint: Endpoint, action: Action) -> str:
        collection, _, model = resource(endpoint.model).partition("/")
        return f"{versioned(endpoint.base_url, 'v1beta')}/{collection}/{segment(model)}:{METHODS[action]}"

    def headers(self, endpoint: Endpoint) -> dict[str, str]:
        return {"x-goog-api-key": endpoint.credential["api_key"]}

    def embeds_at_once(self, endpoint: Endpoint) -> int:
        return 100

    def payload(self, endpoint: Endpoint, payload: dict[str, Any], action: Action) -> dict[str, Any]:
        """Two methods name the model once more in the body, and want the name this backend has for it."""
        name = resource(endpoint.model)
        if action == "embed" and "requests" in payload:
            return {**payload, "requests": [{**each, "model": name} for each in payload["requests"]]}
        if action == "count" and "generateContentRequest" in payload:
            return {**payload, "generateContentRequest": {**payload["generateContentRequest"], "model": name}}
        return payload


def resource(model: str) -> str:
    """The model's resource name: `models/x` for x, tuned models as they are."""
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"


backend = Gemini()
