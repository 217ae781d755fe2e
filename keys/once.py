"""A secret on its way from the form to the page that shows it once.

Neither place on the way can read it: the session row (in the database) keeps it under a one-time pad, and the pad
travels in a cookie of that one browser. The first look takes both away.
"""

from __future__ import annotations

import secrets

from django.http import HttpRequest, HttpResponse
from django.urls import reverse

COOKIE = "gatehouse-once"
LIFETIME = 600  # seconds between issuing and looking


def hand_over(request: HttpRequest, response: HttpResponse, key_id: str, secret: str) -> HttpResponse:
    """Keep `secret` for one look at the page of this key; `response` leads there."""
    plain = secret.encode()
    pad = secrets.token_bytes(len(plain))
    request.session[COOKIE] = {"key": key_id, "masked": _xor(plain, pad).hex()}
    response.set_cookie(
        COOKIE,
        pad.hex(),
        max_age=LIFETIME,
        path=reverse("admin:key_secret", args=[key_id]),
        httponly=True,
        samesite="Strict",
        secure=request.is_secure(),
    )
    return response


def take(request: HttpRequest, key_id: str) -> str:
    """The secret, the first time; "" ever after."""
    kept = request.session.pop(COOKIE, None)
    pad = request.COOKIES.get(COOKIE, "")
    if not kept or kept["key"] != key_id or len(pad) != len(kept["masked"]):
        return ""
    try:
        return _xor(bytes.fromhex(kept["masked"]), bytes.fromhex(pad)).decode()
    except ValueError:
        return ""


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
