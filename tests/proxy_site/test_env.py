"""What the environment may say: what follows from it, and what ends the start with a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy_site import env


@pytest.mark.parametrize(
    ("public_url", "said", "secure"),
    [
        ("", "", False),
        ("http://gate.example.org", "", False),
        ("https://gate.example.org", "", True),
        ("https://gate.example.org", "false", False),
        ("http://gate.example.org", "true", True),
    ],
)
def test_cookies_are_secure_where_the_public_url_is_unless_it_is_said(
    monkeypatch: pytest.MonkeyPatch, public_url: str, said: str, secure: bool
) -> None:
    monkeypatch.setenv("GATEHOUSE_PUBLIC_URL", public_url)
    monkeypatch.setenv("GATEHOUSE_SECURE_COOKIES", said)
    assert env.read().secure_cookies is secure


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEHOUSE_WRITE_TIMEOUT", "-1"),
        ("GATEHOUSE_HEADER_TIMEOUT", "nan"),
        ("GATEHOUSE_UPSTREAM_TOTAL_TIMEOUT", "inf"),
        ("GATEHOUSE_DRAIN_TIMEOUT", "-0.5"),
        ("GATEHOUSE_MAX_BODY_BYTES", "0"),
        ("GATEHOUSE_MAX_CALLS", "0"),
        ("GATEHOUSE_RETENTION_DAYS", "0"),
        ("WEB_CONCURRENCY", "0"),
        ("PORT", "70000"),
        ("DEBUG", "perhaps"),
    ],
)
def test_a_value_that_cannot_be_ends_the_start_and_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"Gatehouse cannot start. {name}: Input should be"):
        env.read()


def test_the_least_that_can_be_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GATEHOUSE_WRITE_TIMEOUT": "0.5",
        "GATEHOUSE_DRAIN_TIMEOUT": "0",
        "WEB_CONCURRENCY": "1",
    }.items():
        monkeypatch.setenv(name, value)
    found = env.read()
    assert (found.write_timeout, found.drain_timeout, found.workers) == (0.5, 0, 1)


def test_a_value_may_come_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hush\n")
    monkeypatch.setenv("METRICS_TOKEN_FILE", str(tmp_path / "token"))
    assert env.read().metrics_token == env.given("METRICS_TOKEN") == "hush"


def test_a_file_that_is_not_there_ends_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METRICS_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(SystemExit, match=r"METRICS_TOKEN_FILE names .*/token, which cannot be read: No such file"):
        env.read()
    with pytest.raises(SystemExit, match="METRICS_TOKEN_FILE"):
        env.given("METRICS_TOKEN")


ISSUER = {"GATEHOUSE_OIDC_ISSUER": "https://id.example.org", "GATEHOUSE_OIDC_CLIENT_ID": "gatehouse"}
PUBLIC = {"GATEHOUSE_PUBLIC_URL": "https://gate.example.org"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (ISSUER, "single sign-on needs GATEHOUSE_PUBLIC_URL as well"),
        (PUBLIC | {"GATEHOUSE_OIDC_ISSUER": "https://id.example.org"}, "needs GATEHOUSE_OIDC_CLIENT_ID as well"),
        (PUBLIC | ISSUER | {"GATEHOUSE_OIDC_ISSUER": "http://id.example.org"}, "it must begin with https://"),
        (PUBLIC | ISSUER | {"GATEHOUSE_OIDC_ROLES": "staff=acme:member"}, "GATEHOUSE_OIDC_ROLES: it must be a JSON object"),
        (PUBLIC | ISSUER | {"GATEHOUSE_OIDC_ROLES": '{"staff": "acme:boss"}'}, "'acme:boss' of 'staff' is no role"),
        (PUBLIC | {"GATEHOUSE_PASSWORD_LOGIN": "off"}, "without passwords there must be single sign-on"),
    ],
)  # fmt: skip
def test_single_sign_on_that_cannot_work_ends_the_start_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], sentence: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        env.read()


@pytest.mark.parametrize(
    "given",
    [
        PUBLIC | ISSUER | {"GATEHOUSE_PASSWORD_LOGIN": "off"},
        PUBLIC | ISSUER | {"GATEHOUSE_OIDC_ISSUER": "http://10.0.0.1", "GATEHOUSE_OIDC_ALLOW_PRIVATE": "true"},
    ],
)
def test_single_sign_on_is_read_with_its_secret_from_a_file_and_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str]
) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    for name, value in {**given, "GATEHOUSE_OIDC_CLIENT_SECRET_FILE": str(tmp_path / "secret")}.items():
        monkeypatch.setenv(name, value)
    found = env.read()
    assert found.oidc_client_secret.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(found)
