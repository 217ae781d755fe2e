"""Question: what a client asks, as every deployment reads it. Parsed once; each deployment gets its own letter.

The client's bytes are kept, because a Gemini-speaking upstream gets them unchanged, and because a retry reads them again.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gemini_api import continuation, refused, signatures, tokens, wire
from gemini_api.call import Call
from gemini_api.errors import InvalidArgument
from gemini_api.translators import TRANSLATORS, capabilities
from gemini_api.translators.base import Letter, Target, Translator
from keys import limits, policy
from lib import json
from routing import loading
from routing.backends.base import Action
from routing.catalog import DeploymentEntry, ModelEntry
from routing.errors import UpstreamError
from routing.router import Hints

Json = dict[str, Any]
DEEPEST = 64  # levels of JSON
ASIDE = 1024 * 1024  # bytes from which on parsing leaves the event loop
SEALED = b'"R1dT'  # how the base64 of our envelope's magic begins, as a JSON string
SIGNATURE = re.compile(rb'"(R1dT[A-Za-z0-9+/_=-]+)"')
PREFIX = 4096  # bytes of a body that stand for a conversation, when an upstream may have its beginning cached


class Question:
    """One Gemini request and the model it is for. hints is what the router may know of it."""

    __slots__ = ("_normal", "body", "call", "hints", "model", "prompt_tokens")

    def __init__(
        self, call: Call, model: ModelEntry, body: Json, *, action: Action = "generate", normal: Json | None = None
    ) -> None:
        """normal: `body` in one spelling, when somebody had it read already."""
        self.call = call
        self.model = model
        self.body = body
        self._normal = normal
        self.prompt_tokens = tokens.guess_request(body, len(call.body))
        self.hints = Hints(
            call_id="",
            stream=call.stream,
            action=action,
            prompt_tokens=self.prompt_tokens,
            deadline=call.deadline,
            organization_id=call.key.organization_id,
            affinity_key=affinity(call),
            scope=newest_scope(call),
            pinned=continuation.made_by(body),
            started=call.started,
            catalog=loading.current(),
            allows=lambda name: may_fall_back(call, model, name),
        )

    @property
    def normal(self) -> Json:
        """The request in one spelling: what translators read. Raises InvalidArgument."""
        if self._normal is None:
            self._normal = wire.normalise(self.body)
        return self._normal

    def letter(self, deployment: DeploymentEntry, *, sealed: bool = True) -> Letter:
        """This question in the words of that deployment. sealed: with reasoning of earlier turns, if there is any."""
        translator = TRANSLATORS[deployment.language]
        target = target_of(deployment, self.call, self.model)
        unchanged = getattr(translator, "request_bytes", None)
        if not sealed:
            letter = translator.request(without_signatures(self.normal), replace(target, signed_anew=True))
        elif unchanged is not None:
            letter = unchanged(self.call.body, self.body, target)
        else:
            letter = translator.request(self.normal, target)
        letter.memo.prompt_tokens = self.prompt_tokens
        return without_refused(letter, deployment, strict=target.strict)

    def second_letter(self, deployment: DeploymentEntry, first: Letter, error: UpstreamError) -> Letter | None:
        """What to send instead, once, when the upstream refused something that may be left out; None: nothing.

        Raises InvalidArgument when it may not, because key or model are strict.
        """
        if error.drop_field == "thoughtSignature":
            second = self.letter(deployment, sealed=False)
            return second if second.payload != self.written(deployment, first) else None
        if isinstance(first.payload, bytes) or refused.without(first.payload, error.drop_field) is None:
            return None
        refused.note(deployment.version, error.drop_field)
        return without_refused(first, deployment, strict=target_of(deployment, self.call, self.model).strict)

    def written(self, deployment: DeploymentEntry, letter: Letter) -> Json:
        """A letter's payload as an object, also where it went out as the client's own bytes."""
        if not isinstance(letter.payload, bytes):
            return letter.payload
        payload = (
            TRANSLATORS[deployment.language].request(self.normal, target_of(deployment, self.call, self.model)).payload
        )
        assert not isinstance(payload, bytes)
        return payload


async def read_question(call: Call, model: ModelEntry) -> Question:
    """Raises InvalidArgument (and what the door noticed about the body)."""
    return Question(call, model, await read_body(call))


async def read_body(call: Call) -> Json:
    if call.body_error is not None:
        raise call.body_error
    if len(call.body) < ASIDE:
        return parse(call.body)
    return await asyncio.to_thread(parse, call.body)


def parse(text: bytes) -> Json:
    if json.too_deep(text, DEEPEST):
        raise InvalidArgument(f"Invalid JSON payload received. It nests deeper than {DEEPEST} levels.")
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"Invalid JSON payload received. {str(error).capitalize()}.") from None
    if not isinstance(body, dict):
        raise InvalidArgument("Invalid JSON payload received. The request body must be a JSON object.")
    return body


def target_of(deployment: DeploymentEntry, call: Call, model: ModelEntry) -> Target:
    return Target(
        model=deployment.upstream_model,
        stream=call.stream,
        base_model=deployment.base_model or deployment.upstream_model,
        capabilities=capabilities_of(deployment),
        options=deployment.endpoint.options,
        scope=deployment.endpoint.scope,
        tenant=call.key.organization_id,
        strict=call.key.strict_fields or model.strict_fields,
    )


def may_fall_back(call: Call, model: ModelEntry, name: str) -> bool:
    """Whether `name` may answer for `model`: allowed, and under no limit of its own that admission did not ask."""
    if not policy.allows_model(call.key, name):
        return False
    return set(limits.rules_for(call.key, name)) <= set(limits.rules_for(call.key, model.name))


def capabilities_of(deployment: DeploymentEntry) -> Mapping[str, Any]:
    """What differs from the shipped table: what the place lacks, and then what the administrator says."""
    shipped = deployment.backend.capabilities
    return {**shipped, **deployment.capabilities} if shipped else deployment.capabilities


def token_factor(deployment: DeploymentEntry) -> float:
    """What our count of words is multiplied with to be that of this deployment's model."""
    own = deployment.capabilities.get("token_factor")
    if isinstance(own, int | float):
        return float(own)
    return capabilities.token_factor(deployment.base_model or deployment.upstream_model)


def without_refused(letter: Letter, deployment: DeploymentEntry, *, strict: bool) -> Letter:
    """The letter without what this deployment is known to refuse: a loss like any other (in `DISPENSABLE`)."""
    names = refused.known(deployment.version)
    if not names or isinstance(letter.payload, bytes):
        return letter
    fields: Mapping[str, str] = getattr(TRANSLATORS[deployment.language], "DISPENSABLE", {})
    payload, dropped = letter.payload, dict.fromkeys(letter.dropped)
    for name in names:
        left = refused.without(payload, name)
        if left is None:
            continue
        payload = left
        field = fields.get(name)
        if field and strict:
            raise InvalidArgument(f"Unsupported field '{field}'. This model does not take it.", field=field)
        if field:
            dropped[field] = None
    return letter if payload is letter.payload else replace(letter, payload=payload, dropped=tuple(dropped))


def without_signatures(body: Json) -> Json:
    """A copy without thought signatures: always legal, another vendor's reasoning is only a help."""
    return {**body, "contents": [_unsigned(content) for content in body.get("contents", ())]}


def _unsigned(content: Json) -> Json:
    parts = [
        {name: value for name, value in part.items() if name != "thoughtSignature"} for part in content.get("parts", ())
    ]
    return {**content, "parts": [part for part in parts if part]}


def affinity(call: Call) -> str:
    """What stands for a conversation: who asks, and how the request begins (instructions and first turns)."""
    if len(call.body) < PREFIX:
        return ""  # too short for any vendor's prompt cache
    return hashlib.blake2b(call.key.organization_id.encode() + call.body[:PREFIX], digest_size=8).hexdigest()


def newest_scope(call: Call) -> str:
    """The credential scope that sealed the newest reasoning in the history: it can read it back best."""
    if SEALED not in call.body:
        return ""
    for found in reversed(SIGNATURE.findall(call.body)):
        envelope = signatures.open_(found.decode(), call.key.organization_id)
        if envelope is not None:
            return envelope.scope
    return ""


def translator_of(deployment: DeploymentEntry) -> Translator:
    return TRANSLATORS[deployment.language]
