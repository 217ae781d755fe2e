"""What a key may do. Pure: no Django, no I/O, the time comes in. Says no by raising Denied.

Patterns: `*` stands for any characters (none too), anywhere and as often as wanted; everything else is meant
literally, and case counts. A denied pattern beats an allowed one. No list (None) allows all, an empty one nothing.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal

from keys.context import KeyContext

Reason = Literal["disabled", "revoked", "suspended", "expired", "network", "scope", "model"]

# The actions a key's scopes speak of, as they stand in the address of a call.
ACTIONS: Final = (
    "generateContent",
    "streamGenerateContent",
    "countTokens",
    "embedContent",
    "batchEmbedContents",
    "listModels",
)


class Denied(Exception):
    """The key may not do this. The message is written for the client; the reason is one word for the record."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


_STATES: Final[dict[str, tuple[str, Reason]]] = {
    "disabled": ("This API key is disabled. Ask the person who issued it.", "disabled"),
    "revoked": ("This API key has been revoked.", "revoked"),
    "suspended": ("The organization of this API key is suspended.", "suspended"),
}


def check_key(context: KeyContext, address: str, now: float) -> None:
    """State, expiry and network of the key. now: Unix seconds; address: the client's IP."""
    if refusal := _STATES.get(context.state):
        raise Denied(*refusal)
    if is_over(context, now):
        raise Denied("API key expired. Please renew the API key.", "expired")
    if context.networks is not None and not within(context, address):
        raise Denied(f"This API key may not be used from the address {address or 'of this client'}.", "network")


def check_action(context: KeyContext, action: str) -> None:
    if context.scopes is not None and action not in context.scopes:
        raise Denied(f"The action '{action}' is not allowed for this API key.", "scope")


def check_model(context: KeyContext, model: str) -> None:
    """model: the public model's own name, aliases resolved."""
    if not allows_model(context, model):
        raise Denied(f"Model '{model}' is not allowed for this API key.", "model")


def allows_model(context: KeyContext, model: str) -> bool:
    return _allows(context.allowed_models, context.denied_models, model)


def is_over(context: KeyContext, now: float) -> bool:
    """Whether the key, or the grace time of the secret that was used, has ended."""
    return (context.expires_at is not None and context.expires_at <= now) or (
        context.secret_until is not None and context.secret_until <= now
    )


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern covers a name. Linear in both: no regular expression that a long name could choke."""
    return _match(_pieces(pattern), name)


@lru_cache(maxsize=8192)
def _allows(allowed: tuple[str, ...] | None, denied: tuple[str, ...], model: str) -> bool:
    """By value, not by context: a key that is read again keeps its answers."""
    if _any(denied, model):
        return False
    return allowed is None or _any(allowed, model)


def _any(patterns: tuple[str, ...], name: str) -> bool:
    return any(_match(_pieces(pattern), name) for pattern in patterns)


@lru_cache(maxsize=4096)
def _pieces(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.split("*"))


def _match(pieces: tuple[str, ...], name: str) -> bool:
    """Pieces stand between the stars. The first and last are anchored, the others are found leftmost first."""
    if len(pieces) == 1:
        return name == pieces[0]
    first, last = pieces[0], pieces[-1]
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in pieces[1:-1]:
        found = name.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def within(context: KeyContext, address: str) -> bool:
    """Whether the client's address lies in one of the key's networks (in none, when it has none)."""
    client = _parsed(address)
    return client is not None and any(client in network for network in context.networks or ())


@lru_cache(maxsize=4096)
def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """An IPv4 client behind an IPv6 socket (::ffff:a.b.c.d) is that IPv4 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
