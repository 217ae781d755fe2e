"""What the environment may say: what follows from it, and what ends the start with a sentence."""

from __future__ import annotations

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
