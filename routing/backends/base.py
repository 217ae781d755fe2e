"""What every backend is: a place (address, headers, signature), not a language.

A backend is one module in this folder that ends with `backend = ...`. Its file name is its kind, in the
database and in `manage.py apply`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from lib import json

# What we ask of an upstream. "count" and "embed" only where `actions` says so.
Action = Literal["generate", "stream", "count", "embed"]
Framing = Literal["sse", "aws_event_stream"]


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a connection of this kind: a field of the admin form, a key under `options` in YAML."""

    name: str
    label: str
    help: str = ""
    required: bool = False
    default: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CredentialField:
    """One part of a credential: a write-only field of the admin form, a key under `credential` in YAML.

    `group`: the fields of one group are given together; a connection holds exactly one group.
    """

    name: str
    label: str
    group: str = "api_key"
    help: str = ""
    required: bool = True
    multiline: bool = False
    switch: bool = False  # a yes/no instead of a secret (adc: true, chain: true)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one deployment's calls go. The credential never shows in `repr`.

    base_url has no trailing slash. model is the upstream model. options are the connection's, with the
    deployment's own on top. credential is the opened credential, a flat dict, for example {"api_key": "..."}.
    scope is a short hash of connection and credential: the same scope can read its own opaque tokens back.
    """

    kind: str
    base_url: str
    model: str
    connection_id: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    credential: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    allow_private: bool = False
    scope: str = ""


@dataclass(slots=True)  # not frozen: that makes one for each call three times as dear
class UpstreamRequest:
    """Exact bytes for one HTTP exchange. Headers hold the credential, so they never show in `repr`."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"


class Backend:
    """A kind of upstream. Instances have no state; everything that varies comes in the Endpoint.

    Subclasses usually set the class attributes and write `url()` and `headers()`; one that must sign bytes or
    fetch a token overrides `prepare()`.
    """

    label: ClassVar[str]
    language: ClassVar[str]  # the translator's module name; see `speaks`
    base_url: ClassVar[str] = ""  # prefilled in the admin form
    base_url_help: ClassVar[str] = ""  # what is special about this kind's address
    own_address: ClassVar[bool] = False  # without a base URL it makes one from its options
    framing: ClassVar[Framing] = "sse"
    options: ClassVar[tuple[Option, ...]] = ()
    credential_fields: ClassVar[tuple[CredentialField, ...]] = (CredentialField("api_key", "API key"),)
    actions: ClassVar[frozenset[Action]] = frozenset({"generate", "stream"})
    capabilities: ClassVar[Mapping[str, Any]] = {}  # what this place lacks of its language; a deployment's own win
    request_id_header: ClassVar[str] = ""  # where the vendor names an answer that has no id of its own
    price_provider: ClassVar[str] = ""  # provider id in genai-prices

    def warm_up(self) -> None:
        """Import what only this kind needs, so that its first call need not. Takes a while: in a thread."""

    def speaks(self, endpoint: Endpoint) -> str:
        """The language of this endpoint: a module name in gemini_api/translators."""
        return self.language

    def embeds_at_once(self, endpoint: Endpoint) -> int:
        """The most contents that one embedding call takes; more are sent in several."""
        return 2048

    def able(self, endpoint: Endpoint) -> frozenset[Action]:
        """What this endpoint can be asked: `actions`, unless its options take one away."""
        return self.actions

    def check(self, endpoint: Endpoint) -> None:
        """Raise BadOption when this endpoint's options or credential cannot be right."""
        for option in self.options:
            value = endpoint.options.get(option.name, "")
            if option.required and not value:
                raise BadOption(f"The option {option.name} is missing.")
            if value and option.choices and value not in option.choices:
                raise BadOption(f"The option {option.name} must be one of: {', '.join(option.choices)}.")
        for name, text in endpoint.headers.items():
            if name.lower() in OUR_HEADERS or not _HEADER_NAME.match(name) or not _HEADER_TEXT.match(text):
                raise BadOption(f"The extra header {name!r} cannot be sent.")
        check_credential(self.credential_fields, endpoint.credential)

    def url(self, endpoint: Endpoint, action: Action) -> str:
        raise NotImplementedError  # every backend has an address

    def headers(self, endpoint: Endpoint) -> dict[str, str]:
        """The headers that carry the credential."""
        return {"authorization": f"Bearer {endpoint.credential['api_key']}"}

    def payload(self, endpoint: Endpoint, payload: dict[str, Any], action: Action) -> dict[str, Any]:
        """The last word on the body (a version field, a model that moves into the path). Never changes its input."""
        return payload

    async def authorise(self, endpoint: Endpoint) -> dict[str, str]:
        """`headers`, for a credential that may have to be exchanged for a token first (tokens.py)."""
        return self.headers(endpoint)

    async def prepare(self, endpoint: Endpoint, payload: dict[str, Any] | bytes, action: Action) -> UpstreamRequest:
        """The request as it will be sent. `payload` as bytes goes out unchanged.

        Raises UpstreamError (kind "credential") when a token cannot be had.
        """
        body = payload if isinstance(payload, bytes) else json.dumps(self.payload(endpoint, payload, action))
        return UpstreamRequest(
            url=self.url(endpoint, action),
            headers={
                "content-type": "application/json",
                "accept": "text/event-stream" if action == "stream" else "application/json",
                "accept-encoding": "identity",
                **endpoint.headers,
                **await self.authorise(endpoint),
            },
            body=body,
        )


def segment(text: str) -> str:
    """`text` as one segment of a path: everything that is not unreserved is percent-encoded, slashes too."""
    return quote(text, safe="-._~")


# These belong to the exchange itself: a connection's extra headers may not have them.
OUR_HEADERS = frozenset(
    [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+\Z", re.IGNORECASE)
_HEADER_TEXT = re.compile(r"[\x20-\x7e\t]*\Z")
_VERSION = re.compile(r"/v\d+(alpha|beta)?\d*\Z")


def versioned(base_url: str, version: str) -> str:
    """`base_url`, which people write with and without the API's version at its end, with one."""
    return base_url if _VERSION.search(base_url) else f"{base_url}/{version}"


def check_credential(fields: tuple[CredentialField, ...], values: Mapping[str, str]) -> None:
    """Raise BadOption unless `values` fill exactly one group of `fields`."""
    known = {each.name: each for each in fields}
    for name in values:
        if name not in known:
            raise BadOption(f"This kind's credential has no {name}. It has: {', '.join(known)}.")
    groups = {known[name].group for name in values}
    if len(groups) > 1:
        raise BadOption(f"A credential is one of {' or '.join(sorted(groups))}, not several of them.")
    if not groups and all(any(each.required for each in fields if each.group == group) for group in _groups(fields)):
        raise BadOption("The connection has no credential.")
    missing = [each.name for each in fields if each.group in groups and each.required and not values.get(each.name)]
    if missing:
        raise BadOption(f"The credential lacks {' and '.join(missing)}.")


def _groups(fields: tuple[CredentialField, ...]) -> set[str]:
    return {each.group for each in fields}


class BadOption(ValueError):
    """An option or credential of a connection cannot be right. The text is a sentence for an operator."""
