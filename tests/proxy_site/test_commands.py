"""First start and serve: secrets are made once, an administrator once, and a bad start is refused with a sentence."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from proxy_site.env import BASE_DIR

GOOD = {
    "SECRET_KEY": "s" * 40,
    "GATEHOUSE_PEPPER": "p" * 40,
    "GATEHOUSE_ENCRYPTION_KEYS": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
}


def manage(data: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("GATEHOUSE_", "DATABASE_", "REDIS_"))
    }
    clean.pop("SECRET_KEY", None)
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env={**clean, "GATEHOUSE_DATA_DIR": str(data), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_init_makes_what_is_missing_once_and_says_so(tmp_path: Path) -> None:
    first = manage(tmp_path, "init", GATEHOUSE_ADMIN_EMAIL="a@b.example", GATEHOUSE_ADMIN_PASSWORD="")
    assert first.returncode == 0, first.stderr
    assert "Created the administrator a@b.example" in first.stdout and "Password (shown once)" in first.stdout
    secrets = tmp_path / "secrets.env"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    kept = secrets.read_text()
    second = manage(tmp_path, "init")
    assert second.returncode == 0
    assert "administrator already" in second.stdout and "Password" not in second.stdout
    assert secrets.read_text() == kept


def test_init_takes_secrets_and_password_from_the_environment(tmp_path: Path) -> None:
    said = manage(tmp_path, "init", **GOOD, GATEHOUSE_ADMIN_PASSWORD="correct horse battery")
    assert said.returncode == 0, said.stderr
    assert not (tmp_path / "secrets.env").exists()
    assert "correct horse" not in said.stdout + said.stderr


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, "SECRET_KEY is not set"),
        ({**GOOD, "SECRET_KEY": "short"}, "too short"),
        ({**GOOD, "SECRET_KEY": "django-insecure-" + "k" * 40}, "an example"),
        ({**GOOD, "GATEHOUSE_PEPPER": GOOD["SECRET_KEY"]}, "three different"),
        ({**GOOD, "GATEHOUSE_ENCRYPTION_KEYS": "x" * 40}, "32-byte keys"),
        (GOOD, "not up to date"),
    ],
    ids=["missing", "short", "example", "repeated", "not a key", "not migrated"],
)
def test_serve_refuses_a_bad_start_with_a_sentence(tmp_path: Path, variables: dict[str, str], named: str) -> None:
    said = manage(tmp_path, "serve", **variables)
    assert said.returncode == 1
    assert named in said.stderr and "Traceback" not in said.stderr


def test_several_workers_without_redis_are_refused_with_the_reason(tmp_path: Path) -> None:
    said = manage(tmp_path, "serve", "--workers", "2", **GOOD)
    assert said.returncode == 1
    assert "REDIS_URL" in said.stderr and "memory" in said.stderr


def test_a_bad_value_in_the_environment_ends_the_start_with_its_name(tmp_path: Path) -> None:
    said = manage(tmp_path, "check", PORT="eighty")
    assert said.returncode == 1
    assert "PORT" in said.stderr and "Traceback" not in said.stderr
