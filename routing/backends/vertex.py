"""Vertex AI: Gemini's or Anthropic's language, project and location in the path, a short-lived token."""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from lib import json
from routing import tokens
from routing.backends.base import Action, Backend, BadOption, CredentialField, Endpoint, Option, segment
from routing.errors import UpstreamError

SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
ANTHROPIC_VERSION = "vertex-2023-10-16"
MULTI_REGIONS = frozenset({"us", "eu"})
EMBED_ONE = "embedContent"  # current embedding models: one content per call
EMBED_MANY = "predict"  # older ones

METHODS: dict[tuple[str, Action], str] = {
    ("google", "generate"): "generateContent",
    ("google", "stream"): "streamGenerateContent?alt=sse",
    ("google", "count"): "countTokens",
    ("anthropic", "generate"): "rawPredict",
    ("anthropic", "stream"): "streamRawPredict",
    ("anthropic", "count"): "rawPredict",
}

_NAME = re.compile(r"[a-z0-9][a-z0-9.:-]*\Z")


class Vertex(Backend):
    label = "Vertex AI"
    language = "gemini"
    own_address = True
    base_url_help = "Empty: the location's own host. With or without /v1 or /v1beta1 at its end."
    options = (
        Option("project", "Project", "The project's id. An API key (express mode) needs none."),
        Option("location", "Location", "A region, a multi-region (us, eu) or global.", default="global"),
        Option("publisher", "Publisher", "Whose models these are.", default="google", choices=("google", "anthropic")),
        Option("api_version", "API version", "v1 or v1beta1.", default="v1", choices=("v1", "v1beta1")),
        Option("anthropic_version", "Anthropic version", "For Anthropic's models.", default=ANTHROPIC_VERSION),
    )
    credential_fields = (
        CredentialField("service_account", "Service account (JSON)", group="service_account", multiline=True),
        CredentialField("access_token", "Access token", group="access_token", help="As it is; never renewed."),
        CredentialField(
            "adc", "Application default credentials", group="adc", switch=True, help="This machine's own identity."
        ),
        CredentialField("api_key", "API key", group="api_key", help="Express mode."),
    )
    actions: ClassVar[frozenset[Action]] = frozenset({"generate", "stream", "count", "embed"})
    price_provider = "google"

    def warm_up(self) -> None:
        import google.auth.exceptions  # noqa: PLC0415 - a large package that only this backend needs
        import google.oauth2.service_account  # noqa: F401, PLC0415 - as above

    def speaks(self, endpoint: Endpoint) -> str:
        return "anthropic_messages" if self._publisher(endpoint) == "anthropic" else "gemini"

    def able(self, endpoint: Endpoint) -> frozenset[Action]:
        """Anthropic has no embeddings."""
        return self.actions - {"embed"} if self._publisher(endpoint) == "anthropic" else self.actions

    def check(self, endpoint: Endpoint) -> None:
        super().check(endpoint)
        for name in ("project", "location"):
            if not _NAME.match(endpoint.options.get(name) or "global"):
                raise BadOption(f"The option {name} may have small letters, digits and hyphens.")
        if not endpoint.options.get("project") and "api_key" not in endpoint.credential:
            raise BadOption("The option project is missing.")
        if text := endpoint.credential.get("service_account"):
            service_account_info(text)

    def url(self, endpoint: Endpoint, action: Action) -> str:
        location = endpoint.options.get("location") or "global"
        version = endpoint.options.get("api_version") or "v1"
        base = endpoint.base_url or f"https://{host(location)}"
        if not base.endswith(("/v1", "/v1beta1")):
            base = f"{base}/{version}"
        if project := endpoint.options.get("project"):
            base = f"{base}/projects/{segment(project)}/locations/{segment(location)}"
        publisher = self._publisher(endpoint)
        method = embed_method(endpoint.model) if action == "embed" else METHODS[publisher, action]
        if endpoint.model.startswith("endpoints/"):  # a tuned model
            return f"{base}/endpoints/{segment(endpoint.model.removeprefix('endpoints/'))}:{method}"
        model = "count-tokens" if (publisher, action) == ("anthropic", "count") else endpoint.model
        return f"{base}/publishers/{publisher}/models/{segment(model)}:{method}"

    def embeds_at_once(self, endpoint: Endpoint) -> int:
        """Gemini's embedding models take one, whichever method they are called by."""
        return 1 if endpoint.model.startswith("gemini-embedding") else 250

    def payload(self, endpoint: Endpoint, payload: dict[str, Any], action: Action) -> dict[str, Any]:
        if action == "embed":
            return embed_payload(endpoint.model, payload)
        if self._publisher(endpoint) != "anthropic":
            return flat(payload) if action == "count" else payload
        version = endpoint.options.get("anthropic_version") or ANTHROPIC_VERSION
        if action == "count":  # the one call that wants the model in its body
            return {**payload, "model": endpoint.model}
        kept = {name: value for name, value in payload.items() if name != "model"}
        return {"anthropic_version": version, **kept}

    async def authorise(self, endpoint: Endpoint) -> dict[str, str]:
        credential = endpoint.credential
        if key := credential.get("api_key"):
            return {"x-goog-api-key": key}
        value = credential.get("access_token") or await tokens.token(endpoint, lambda: google_token(endpoint))
        return {"authorization": f"Bearer {value}"}

    def _publisher(self, endpoint: Endpoint) -> str:
        return endpoint.options.get("publisher") or "google"


def host(location: str) -> str:
    if location == "global":
        return "aiplatform.googleapis.com"
    if location in MULTI_REGIONS:
        return f"aiplatform.{location}.rep.googleapis.com"
    return f"{location}-aiplatform.googleapis.com"


def flat(payload: dict[str, Any]) -> dict[str, Any]:
    """Vertex counts the fields of a request side by side, the Developer API inside `generateContentRequest`."""
    if "generateContentRequest" not in payload:
        return payload
    return {name: value for name, value in payload["generateContentRequest"].items() if name != "model"}


def embed_method(model: str) -> str:
    return EMBED_ONE if re.match(r"gemini-embedding-(?!0)", model) else EMBED_MANY


def embed_payload(model: str, payload: dict[str, Any]) -> dict[str, Any]:
    """batchEmbedContents in the form this model's method wants. Raises UpstreamError (invalid) if it has none."""
    requests = payload.get("requests")
    if requests is None:
        return payload
    if embed_method(model) == EMBED_ONE:
        if len(requests) != 1:
            raise UpstreamError("invalid", "This model takes one content per embedding call here.", sent=False)
        return {name: value for name, value in requests[0].items() if name != "model"}
    asked = [{**each.get("embedContentConfig", {}), **each} for each in requests]
    parameters = {name: asked[0][name] for name in ("outputDimensionality", "autoTruncate") if name in asked[0]}
    if any(
        each.get(name) != parameters.get(name) for each in asked for name in ("outputDimensionality", "autoTruncate")
    ):
        raise UpstreamError("invalid", "All requests of a batch must ask for the same size here.", sent=False)
    return {"instances": [_instance(each) for each in asked], **({"parameters": parameters} if parameters else {})}


def _instance(asked: dict[str, Any]) -> dict[str, Any]:
    parts = asked.get("content", {}).get("parts", [])
    if any("text" not in part for part in parts):
        raise UpstreamError("invalid", "This model only embeds text.", sent=False)
    instance = {"content": "".join(part["text"] for part in parts)}
    names = {"task_type": "taskType", "title": "title"}
    return instance | {there: asked[here] for there, here in names.items() if here in asked}


# ---- tokens (blocking: in a thread)


def service_account_info(text: str) -> dict[str, Any]:
    """The JSON of a service account key. Other files (external accounts) name commands and addresses to run."""
    try:
        info = json.loads(text)
    except json.JSONDecodeError:
        raise BadOption("The credential's service_account is not JSON.") from None
    if not isinstance(info, dict) or info.get("type") != "service_account":
        raise BadOption("The credential's service_account must be the JSON key of a service account.")
    if missing := [name for name in ("client_email", "private_key", "token_uri") if not info.get(name)]:
        raise BadOption(f"The credential's service_account lacks {' and '.join(missing)}.")
    return info


def google_token(endpoint: Endpoint) -> tokens.Token:
    from google.auth import exceptions  # noqa: PLC0415 - a large package that only this backend needs

    try:
        if text := endpoint.credential.get("service_account"):
            return service_account_token(text, allow_private=endpoint.allow_private)
        return adc_token()
    except exceptions.GoogleAuthError as error:
        raise tokens.TokenRefused(f"Google gave no token ({type(error).__name__}).") from error


def service_account_token(text: str, *, allow_private: bool) -> tokens.Token:
    """Signed and sent to the `token_uri` of the key file, wherever that is: the address guard has a say."""
    from google.oauth2 import service_account  # noqa: PLC0415 - as above

    kind: Any = service_account.Credentials
    credentials = kind.from_service_account_info(service_account_info(text), scopes=SCOPES)
    credentials.refresh(functools.partial(_google_request, allow_private=allow_private))
    return _lasting(credentials)


@functools.cache
def _default_credentials() -> Any:
    import google.auth  # noqa: PLC0415 - as above

    return google.auth.default(scopes=SCOPES)[0]


def adc_token() -> tokens.Token:
    """This machine's own identity: the operator asked for it, so the metadata server is not guarded against."""
    from google.auth.transport.requests import Request  # noqa: PLC0415 - as above

    credentials = _default_credentials()
    credentials.refresh(Request())
    return _lasting(credentials)


def _lasting(credentials: Any) -> tokens.Token:
    """google-auth keeps the end as naive UTC."""
    if credentials.expiry is None:
        return tokens.Token.lasting(str(credentials.token), 3600)
    end = credentials.expiry.replace(tzinfo=datetime.UTC)
    return tokens.Token.lasting(str(credentials.token), (end - datetime.datetime.now(datetime.UTC)).total_seconds())


class _Response:
    """What google-auth reads of an answer."""

    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.status, self.headers, self.data = status, headers, data


def _google_request(
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
    *,
    allow_private: bool,
    **ignored: Any,
) -> _Response:
    """google-auth's transport, over our guarded exchange."""
    return _Response(*tokens.exchange(url, method=method, content=body, headers=headers, allow_private=allow_private))


backend = Vertex()
