"""Azure OpenAI: OpenAI's two languages, Azure's addresses, a key header or an Entra token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from routing import tokens
from routing.backends.base import Action, Backend, BadOption, CredentialField, Endpoint, Option, segment

PATHS: dict[Action, str] = {"generate": "chat/completions", "stream": "chat/completions", "embed": "embeddings"}
AUTHORITY = "https://login.microsoftonline.com"
SCOPE = "https://cognitiveservices.azure.com/.default"

_API_VERSION = re.compile(r"(v1|preview|\d{4}-\d{2}-\d{2}(-preview)?)\Z")
_TENANT = re.compile(r"[A-Za-z0-9.-]+\Z")


class AzureOpenAI(Backend):
    """The v1 path (api_version "v1" or "preview") names the deployment in the body, a dated version in the path."""

    label = "Azure OpenAI"
    language = "chat_completions"
    base_url_help = (
        "https://RESOURCE.openai.azure.com or https://RESOURCE.services.ai.azure.com; /openai/v1 at its end is fine."
    )
    options = (
        Option("api_version", "API version", "v1, or a date like 2024-10-21.", default="v1"),
        Option("api", "API", "Which of the two languages to speak.", default="chat", choices=("chat", "responses")),
        Option("scope", "Token scope", "What an Entra token is asked for.", default=SCOPE),
    )
    capabilities: ClassVar[Mapping[str, Any]] = {"file_parts": False}  # no PDFs over Chat here
    credential_fields = (
        CredentialField("api_key", "API key"),
        CredentialField("tenant_id", "Tenant id", group="entra"),
        CredentialField("client_id", "Client id", group="entra"),
        CredentialField("client_secret", "Client secret", group="entra"),
        CredentialField(
            "authority", "Authority", group="entra", required=False, help=f"For national clouds. Usually {AUTHORITY}."
        ),
    )
    actions: ClassVar[frozenset[Action]] = frozenset({"generate", "stream", "embed"})
    price_provider = "azure"

    def speaks(self, endpoint: Endpoint) -> str:
        return "responses" if endpoint.options.get("api") == "responses" else "chat_completions"

    def check(self, endpoint: Endpoint) -> None:
        super().check(endpoint)
        if not endpoint.base_url:
            raise BadOption(f"The base URL is missing: {self.base_url_help}")
        if not _API_VERSION.match(self._version(endpoint)):
            raise BadOption("The option api_version must be v1, preview, or a date like 2024-10-21.")
        if not _TENANT.match(endpoint.credential.get("tenant_id", "common")):
            raise BadOption("The credential's tenant_id is not a tenant.")

    def url(self, endpoint: Endpoint, action: Action) -> str:
        base = endpoint.base_url.removesuffix("/v1").removesuffix("/openai")
        version = self._version(endpoint)
        responses = self.speaks(endpoint) == "responses" and action != "embed"
        path = "responses" if responses else PATHS[action]
        if version == "v1":
            return f"{base}/openai/v1/{path}"
        if version == "preview":
            return f"{base}/openai/v1/{path}?api-version=preview"
        if not responses:
            path = f"deployments/{segment(endpoint.model)}/{path}"
        return f"{base}/openai/{path}?api-version={version}"

    async def authorise(self, endpoint: Endpoint) -> dict[str, str]:
        credential = endpoint.credential
        if key := credential.get("api_key"):
            return {"api-key": key}
        token = await tokens.token(endpoint, lambda: entra_token(endpoint))
        return {"authorization": f"Bearer {token}"}

    def _version(self, endpoint: Endpoint) -> str:
        return endpoint.options.get("api_version") or "v1"


def entra_token(endpoint: Endpoint) -> tokens.Token:
    """Client credentials for a token. Blocking: runs in a thread."""
    credential = endpoint.credential
    authority = (credential.get("authority") or AUTHORITY).rstrip("/")
    answer = tokens.post_form(
        f"{authority}/{quote(credential['tenant_id'], safe='')}/oauth2/v2.0/token",
        {
            "grant_type": "client_credentials",
            "client_id": credential["client_id"],
            "client_secret": credential["client_secret"],
            "scope": endpoint.options.get("scope") or SCOPE,
        },
        allow_private=endpoint.allow_private,
    )
    return tokens.Token.lasting(str(answer["access_token"]), float(answer.get("expires_in", 3600)))


backend = AzureOpenAI()
