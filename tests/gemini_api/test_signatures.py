"""Envelopes in thoughtSignature: what was sealed comes back to its tenant, and to nobody else."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemini_api import signatures

BLOCKS: list[dict[str, Any]] = [{"t": "thinking", "x": "Need both cities.", "g": "EqQB"}]
DUMMY = "skip_thought_signature_validator"


def sealed(blocks: list[dict[str, Any]] = BLOCKS, tenant: str = "acme") -> str:
    return signatures.seal(blocks, family="anthropic", scope="3f9a", model="claude", tenant=tenant)


# How long a machine takes to make examples says nothing about the code under test.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.fixed_dictionaries({"t": st.just("thinking"), "x": st.text(max_size=2000), "g": st.text(max_size=20)}),
        max_size=3,
    )
)
def test_what_was_sealed_comes_back_unchanged(blocks: list[dict[str, Any]]) -> None:
    envelope = sealed(blocks)
    base64.b64decode(envelope, validate=True)
    assert signatures.kind(envelope) == "own"
    assert signatures.open_(envelope, "acme") == signatures.Envelope("anthropic", "3f9a", "claude", blocks)


def test_long_reasoning_is_compressed() -> None:
    assert len(sealed([{"t": "thinking", "x": "word " * 2000}])) < 500


def test_another_tenant_cannot_open_it() -> None:
    assert signatures.open_(sealed(), "acme") is not None
    assert signatures.open_(sealed(), "globex") is None


def test_another_installation_cannot_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = sealed()
    monkeypatch.setattr(signatures, "_key", b"another installation's key......")
    assert signatures.open_(envelope, "acme") is None


def test_no_changed_byte_goes_unnoticed() -> None:
    raw = base64.b64decode(sealed())
    for place in range(len(raw)):
        changed = raw[:place] + bytes((raw[place] ^ 1,)) + raw[place + 1 :]
        assert signatures.open_(base64.b64encode(changed).decode(), "acme") is None
    for length in range(len(raw)):
        assert signatures.open_(base64.b64encode(raw[:length]).decode(), "acme") is None


def test_an_envelope_without_a_tag_is_not_ours() -> None:
    body = b'{"p":"anthropic","s":"3f9a","m":"claude","b":[]}'
    for flags, inner in ((0, body), (1, zlib.compress(body))):
        forged = base64.b64encode(b"GWS1" + bytes((flags,)) + b"0" * 16 + inner).decode()
        assert signatures.open_(forged, "acme") is None


def test_an_envelope_that_swells_beyond_all_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = sealed([{"t": "thinking", "x": "a" * 100_000}])
    monkeypatch.setattr(signatures, "_MOST_BYTES", 50_000)
    assert signatures.open_(envelope, "acme") is None


@pytest.mark.parametrize("form", [DUMMY, base64.b64encode(DUMMY.encode()).decode()])
def test_the_dummy_is_known_in_both_forms(form: str) -> None:
    assert signatures.kind(form) == "dummy"


@pytest.mark.parametrize(
    ("given", "expected"),
    [("AQIDBA==", "foreign"), ("AQID_-", "foreign"), ("not base64!", "garbage"), ("", "garbage"), ("héllo", "garbage")],
)
def test_everything_else_is_foreign_or_garbage(given: str, expected: str) -> None:
    assert signatures.kind(given) == expected
    assert signatures.open_(given, "acme") is None


@pytest.mark.parametrize(
    ("accepts", "opened"),
    [
        ({"family": "anthropic", "scope": "3f9a"}, True),
        ({"family": "anthropic", "scope": None}, True),
        ({"family": "openai", "scope": "3f9a"}, False),
        ({"family": "anthropic", "scope": "other"}, False),
        ({"family": "anthropic", "scope": "3f9a", "model": "claude"}, True),
        ({"family": "anthropic", "scope": "3f9a", "model": "other"}, False),
    ],
)
def test_blocks_only_go_back_to_where_they_can_be_read(accepts: dict[str, Any], opened: bool) -> None:
    assert signatures.blocks_for(sealed(), tenant="acme", **accepts) == (BLOCKS if opened else [])


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        signatures.configure(b"short")


def test_the_key_is_derived_from_the_secret_that_was_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "_key", b"")
    signatures.configure(b"a secret of sixteen bytes or more")
    assert signatures._key not in (b"", b"a secret of sixteen bytes or more")
    assert signatures.open_(sealed(), "acme") is not None
