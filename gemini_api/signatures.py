"""Other vendors' reasoning, sealed inside Gemini's `thoughtSignature`, and what a signature in a history is.

A Gemini client carries exactly one opaque field from an answer into the next request. Vendors that want their
reasoning back (Anthropic's thinking blocks, OpenAI's encrypted reasoning items) travel in it as an envelope:

    base64( "GWS1" | flags | tag | body )
    flags  bit 0: body is zlib; bit 1: tag present (always, here)
    tag    first 16 bytes of HMAC-SHA-256 under this installation's key over tenant, flags and body: a client can
           neither forge an envelope nor carry one from one tenant to another
    body   JSON {"p": family, "s": scope, "m": upstream model, "b": [opaque blocks]}

`configure` hands the key in, once per process; until then a random one serves, so nothing is ever unsigned.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import zlib
from dataclasses import dataclass
from typing import Any, Literal

from lib import json

Json = dict[str, Any]
Kind = Literal["own", "dummy", "foreign", "garbage"]

DUMMY = "skip_thought_signature_validator"
_MAGIC = b"GWS1"
_PREFIX = "R1dTMQ"  # base64 of the magic; holds for every flags byte below 16
_ZLIB, _TAGGED = 1, 2
_TAG_BYTES = 16
_COMPRESS_FROM = 512
_MOST_BYTES = 16 * 1024 * 1024  # an envelope that inflates beyond this is not ours
# The documented values for calls that did not come from Gemini, as clients send them: plain, or base64 of it.
_DUMMIES = frozenset(
    form
    for word in (DUMMY, "context_engineering_is_the_way_to_go")
    for form in (word, base64.b64encode(word.encode()).decode(), base64.urlsafe_b64encode(word.encode()).decode())
)

_key = os.urandom(32)


@dataclass(frozen=True, slots=True)
class Envelope:
    """An opened envelope. blocks: the vendor's opaque blocks, in order, as the translator of `family` wrote them."""

    family: str
    scope: str
    model: str
    blocks: list[Json]


def configure(key: bytes) -> None:
    """Set what this installation's envelopes are signed under. Every process of an installation must use the same.

    The key itself is derived from it, so that it may be a secret which has another use besides.
    """
    if len(key) < 16:
        raise ValueError("The key of the signature envelopes must have at least 16 bytes.")
    global _key
    _key = hmac.digest(key, b"thoughtSignature envelopes", "sha256")


def seal(blocks: list[Json], *, family: str, scope: str, model: str, tenant: str) -> str:
    """Blocks as a `thoughtSignature`: standard base64."""
    body = json.dumps({"p": family, "s": scope, "m": model, "b": blocks})
    flags = _TAGGED
    if len(body) > _COMPRESS_FROM:
        body, flags = zlib.compress(body, 6), flags | _ZLIB
    return base64.b64encode(_MAGIC + bytes((flags,)) + _tag(tenant, flags, body) + body).decode()


def open_(signature: str, tenant: str) -> Envelope | None:
    """The envelope in a signature; None when it is not one, or not one that was sealed for this tenant."""
    if not signature.startswith(_PREFIX):
        return None
    raw = _decoded(signature)
    if raw is None or len(raw) <= 5 + _TAG_BYTES:
        return None
    flags, tag, body = raw[4], raw[5 : 5 + _TAG_BYTES], raw[5 + _TAG_BYTES :]
    if not flags & _TAGGED or not hmac.compare_digest(tag, _tag(tenant, flags, body)):
        return None
    try:
        if flags & _ZLIB:
            inflater = zlib.decompressobj()
            body = inflater.decompress(body, _MOST_BYTES)
            if inflater.unconsumed_tail:
                return None
        content = json.loads(body)
    except (zlib.error, json.JSONDecodeError):
        return None
    match content:
        case {"p": str(family), "s": str(scope), "m": str(model), "b": list(blocks)}:
            return Envelope(family, scope, model, blocks)
    return None


def blocks_for(signature: str, *, family: str, scope: str | None, tenant: str, model: str | None = None) -> list[Json]:
    """The blocks of a signature when this family may read them back, else none.

    scope None: the family's tokens do not depend on the credential. model None: they do not depend on the model.
    """
    envelope = open_(signature, tenant)
    if envelope is None or envelope.family != family:
        return []
    if scope is not None and envelope.scope != scope:
        return []
    if model is not None and envelope.model != model:
        return []
    return envelope.blocks


def kind(signature: str) -> Kind:
    """What a signature is: "own" looks like our envelope (sealed for whom: see `open_`)."""
    if signature.startswith(_PREFIX):
        return "own"
    if signature in _DUMMIES:
        return "dummy"
    return "foreign" if signature and _decoded(signature) is not None else "garbage"


def is_own(signature: str) -> bool:
    return signature.startswith(_PREFIX)


def is_dummy(signature: str) -> bool:
    return signature in _DUMMIES


def _tag(tenant: str, flags: int, body: bytes) -> bytes:
    return hmac.digest(_key, b"%s\0%c" % (tenant.encode(), flags) + body, "sha256")[:_TAG_BYTES]


def _decoded(signature: str) -> bytes | None:
    """Standard or URL-safe, padded or not."""
    text = signature.translate(_TO_STANDARD).rstrip("=")
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        return None


_TO_STANDARD = str.maketrans("-_", "+/")
