"""First start and serve: secrets are made once, an administrator once, and a bad start is refused with a sentence."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from proxy_site.env import BASE_DIR
from tests.live.gateway import migrated_sqlite

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
    shutil.copyfile(migrated_sqlite(), tmp_path / "gatehouse.sqlite3")
    said = manage(tmp_path, "init", **GOOD, GATEHOUSE_ADMIN_PASSWORD="correct horse battery")
    assert said.returncode == 0, said.stderr
    assert not (tmp_path / "secrets.env").exists()
    assert "correct horse" not in said.stdout + said.stderr


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"SECRET_KEY": "short"}, "too short"),
        ({"SECRET_KEY": "django-insecure-" + "k" * 40}, "an example"),
        ({"GATEHOUSE_PEPPER": GOOD["SECRET_KEY"]}, "three different"),
        ({"GATEHOUSE_ENCRYPTION_KEYS": "x" * 40}, "32-byte keys"),
    ],
    ids=["short", "example", "repeated", "not a key"],
)
def test_serve_refuses_secrets_that_will_not_do_with_a_sentence(
    settings: Any, given: dict[str, str], named: str
) -> None:
    for name, value in {**GOOD, **given}.items():
        setattr(settings, name, value)
    with pytest.raises(CommandError, match=named):
        call_command("serve")


def test_several_workers_without_redis_are_refused_with_the_reason(settings: Any) -> None:
    settings.REDIS_URL = ""
    with pytest.raises(CommandError, match=r"REDIS_URL.*memory"):
        call_command("serve", workers=2)


@pytest.mark.parametrize(
    ("given", "named"), [({}, "SECRET_KEY is not set"), (GOOD, "not up to date")], ids=["nothing set", "not migrated"]
)
def test_a_refused_start_ends_with_the_sentence_alone(tmp_path: Path, given: dict[str, str], named: str) -> None:
    said = manage(tmp_path, "serve", **given)
    assert said.returncode == 1
    assert named in said.stderr and "Traceback" not in said.stderr


def test_a_bad_value_in_the_environment_ends_the_start_with_its_name(tmp_path: Path) -> None:
    said = manage(tmp_path, "check", PORT="eighty")
    assert said.returncode == 1
    assert "PORT" in said.stderr and "Traceback" not in said.stderr
