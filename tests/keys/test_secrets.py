"""The form of a secret, its fingerprint, and where a request may carry it."""

from __future__ import annotations

import hmac
import re

import pytest

from keys import secrets
from keys.context import Source

GOOD = "gate_" + "A" * 40 + "2uuC4P"


def test_a_new_secret_has_the_published_form_and_its_checksum() -> None:
    made = {secrets.make() for _ in range(50)}
    assert len(made) == 50
    for secret in made:
        assert re.fullmatch(r"gate_[0-9A-Za-z]{46}", secret)
        assert secrets.well_formed(secret)


def test_the_checksum_is_crc32_in_base62_over_all_before_it() -> None:
    """The published rule, once by hand: scanners and other languages rely on it."""
    body = "gate_" + "A" * 40
    assert secrets._checksum(body) == GOOD[-6:]
    assert secrets.well_formed(GOOD)


def swapped(secret: str, at: int) -> str:
    return secret[:at] + ("a" if secret[at] != "a" else "b") + secret[at + 1 :]


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_one_wrong_character_anywhere_makes_it_malformed(at: int) -> None:
    assert not secrets.well_formed(swapped(GOOD, at))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gate_",
        GOOD[:-1],
        GOOD + "0",
        " " + GOOD[1:],
        GOOD.lower(),
        GOOD.upper(),
        "gate-" + GOOD[5:],
        "sk-" + GOOD[3:],
        "AIzaSy" + "x" * 33,
        "gate_" + "é" * 46,
        "gate_" + "\ud800" * 46,
        "gate_" + "\x00" * 46,
        "gate_" + "١" * 46,  # a digit, but not one of ours
        GOOD * 20_000,
    ],
)
def test_what_is_not_a_secret_is_malformed(text: str) -> None:
    assert not secrets.well_formed(text)


def test_a_right_checksum_over_foreign_characters_is_still_malformed() -> None:
    body = "gate_" + "-" * 40
    assert not secrets.well_formed(body + secrets._checksum(body))


def test_a_fingerprint_depends_on_every_character_and_on_the_pepper() -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", secrets.fingerprint(GOOD))
    assert secrets.fingerprint(GOOD, "a") != secrets.fingerprint(GOOD, "b")
    assert secrets.fingerprint(GOOD, "a") != secrets.fingerprint(swapped(GOOD, 20), "a")
    assert secrets.fingerprint("gate_x", "pepper") == "65f1de943c68de51ad5fd2121026433486595e12322670bc3f9e81b3091ca168"


@pytest.mark.parametrize("pepper", ["p", "p" * 64, "p" * 65, "Pfeffer aus Übersee"])
def test_a_fingerprint_is_the_hmac_of_the_standard_library(pepper: str) -> None:
    assert secrets.fingerprint(GOOD, pepper) == hmac.new(pepper.encode(), GOOD.encode(), "sha256").hexdigest()


def test_a_hint_shows_the_prefix_and_the_last_four() -> None:
    assert secrets.hint(GOOD) == "gate_…uC4P"


PLACES: list[tuple[dict[str, str], bytes, tuple[str, Source]]] = [
    ({}, b"", ("", "none")),
    ({"x-goog-api-key": "h"}, b"", ("h", "header")),
    ({"x-goog-api-key": " h "}, b"", ("h", "header")),
    ({}, b"key=q", ("q", "query")),
    ({}, b"alt=sse&key=q", ("q", "query")),
    ({}, b"k%65y=%71%2B", ("q+", "query")),
    ({}, b"%6Bey=q", ("q", "query")),
    ({}, b"key=&key=q", ("q", "query")),
    ({"authorization": "Bearer b"}, b"", ("b", "bearer")),
    ({"authorization": "bearer  b "}, b"", ("b", "bearer")),
    # precedence
    ({"x-goog-api-key": "h", "authorization": "Bearer b"}, b"key=q", ("h", "header")),
    ({"authorization": "Bearer b"}, b"key=q", ("q", "query")),
    # an empty one counts as absent
    ({"x-goog-api-key": "", "authorization": "Bearer b"}, b"key=", ("b", "bearer")),
    ({"x-goog-api-key": "  "}, b"", ("", "none")),
    ({"authorization": "Bearer "}, b"", ("", "none")),
    # not a credential
    ({"authorization": "Basic dXNlcjpwYXNz"}, b"", ("", "none")),
    ({"authorization": "b"}, b"", ("", "none")),
    ({}, b"keys=q&apikey=q&KEY=q", ("", "none")),
    ({}, b"%&%zz=%&key", ("", "none")),
]


@pytest.mark.parametrize(("headers", "query", "expected"), PLACES)
def test_the_credential_is_found_where_clients_put_it(
    headers: dict[str, str], query: bytes, expected: tuple[str, Source]
) -> None:
    assert secrets.presented(headers, query) == expected


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (b"", b""),
        (b"key=q", b""),
        (b"%6bey=q", b""),
        (b"k%65y=%71&alt=sse", b"alt=sse"),
        (b"alt=sse&%6B%65%79=q&key=r&key&x=%6bey", b"alt=sse&x=%6bey"),
        (b"keys=1&monkey=2&a=key=3", b"keys=1&monkey=2&a=key=3"),
        (b"%&%zz=%", b"%&%zz=%"),
    ],
)
def test_a_credential_in_the_query_is_taken_out_however_it_is_spelled(query: bytes, left: bytes) -> None:
    assert secrets.without_credential(query) == left
    assert secrets.presented({}, left) == ("", "none")
