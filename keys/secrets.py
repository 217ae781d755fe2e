"""The secret of a virtual key: make one, tell a typo from a key, fingerprint it, find it in a request.

A secret is `gate_`, 40 random base62 characters (238 bits) and 6 characters of base62 CRC32 over all before them:

    ^gate_[0-9A-Za-z]{46}$

So a scanner can match it, and a mistyped one is refused without a look-up. Only the fingerprint is stored: an
HMAC under the pepper, which never sits in the database.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from django.conf import settings

from keys.context import Source

PREFIX = "gate_"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM = 40
CHECKSUM = 6
LENGTH = len(PREFIX) + RANDOM + CHECKSUM


def make() -> str:
    """A new secret."""
    body = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM))
    return body + _checksum(body)


def well_formed(secret: str) -> bool:
    """Whether this can be one of ours: length, prefix, alphabet, checksum, in this order. Costs no look-up."""
    return (
        len(secret) == LENGTH
        and secret.startswith(PREFIX)
        and secret.isascii()
        and secret[-CHECKSUM:] == _checksum(secret[:-CHECKSUM])
        and secret[len(PREFIX) :].isalnum()
    )


def fingerprint(secret: str, pepper: str | None = None) -> str:
    """What is stored and looked up: HMAC-SHA-256 under the pepper (the site's own when None), 64 hex characters.

    A fast hash is right here: 238 random bits cannot be guessed, and a slow one would let strangers burn our CPU.
    """
    inner, outer = _keyed(settings.GATEHOUSE_PEPPER if pepper is None else pepper)
    inner, outer = inner.copy(), outer.copy()
    inner.update(secret.encode(errors="surrogatepass"))
    outer.update(inner.digest())
    return outer.hexdigest()


@lru_cache(maxsize=8)
def _keyed(pepper: str) -> tuple[hashlib._Hash, hashlib._Hash]:
    """HMAC's two hashes (RFC 2104) with the key in them already: asking OpenSSL for a new HMAC costs three times the rest."""
    key = pepper.encode()
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    return hashlib.sha256(bytes(byte ^ 0x36 for byte in key)), hashlib.sha256(bytes(byte ^ 0x5C for byte in key))


def hint(secret: str) -> str:
    """What people recognise a secret by: `gate_…wxyz`."""
    return f"{PREFIX}…{secret[-4:]}"


def presented(headers: Mapping[str, str], query_string: bytes) -> tuple[str, Source]:
    """The credential of a request and where it stood; ("", "none") when there is none.

    Header names are lower case. Precedence: `x-goog-api-key`, `?key=` (percent-decoded), `Authorization: Bearer`.
    An empty one counts as absent.
    """
    if found := headers.get("x-goog-api-key", "").strip():
        return found, "header"
    if query_string and (found := _from_query(query_string)):
        return found, "query"
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and (found := token.strip()):
        return found, "bearer"
    return "", "none"


def without_credential(query_string: bytes) -> bytes:
    """The query string without any `key`, however it is spelled, so that nothing later can log it or send it on."""
    if b"key" not in query_string and b"%" not in query_string:
        return query_string
    return b"&".join(pair for pair in query_string.split(b"&") if not _names_key(pair))


def _from_query(query_string: bytes) -> str:
    for pair in query_string.split(b"&"):
        if _names_key(pair) and (value := pair.partition(b"=")[2]):
            return unquote_to_bytes(value).decode("latin-1")
    return ""


def _names_key(pair: bytes) -> bool:
    name = pair.partition(b"=")[0]
    return name == b"key" or (b"%" in name and unquote_to_bytes(name) == b"key")


def _checksum(body: str) -> str:
    """CRC32 as six base62 digits, the most significant first."""
    rest = zlib.crc32(body.encode())
    digits = ""
    for _ in range(CHECKSUM):
        rest, digit = divmod(rest, 62)
        digits = ALPHABET[digit] + digits
    return digits
