"""The servers of the test run: what the suite stands on is real, its own, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis

from tests import servers
from tests.plugin import chromium
from tests.servers import Servers


def test_both_start_and_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even from a virtual environment that the user PostgreSQL runs as may not read."""
    monkeypatch.setattr(servers, "_everybody_may_enter", lambda path: False)
    started = Servers()
    database, store = started.start()
    with psycopg.connect(database) as connection:
        assert connection.info.server_version >= 160000
    with redis.Redis.from_url(store) as client:
        assert client.ping()
    started.stop()
    started.stop()
    assert not started.directory.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database, connect_timeout=2)


def test_they_die_with_a_test_process_that_is_killed() -> None:
    program = "from tests.servers import Servers; s = Servers(); print(*s.start(), s.directory, flush=True); input()"
    house = Path(__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-c", program], cwd=house, stdin=-1, stdout=-1, text=True)
    with process:
        assert process.stdout is not None
        database, store, directory = process.stdout.readline().split()
        psycopg.connect(database).close()
        process.kill()
    deadline = time.monotonic() + 20
    with redis.Redis.from_url(store) as client, pytest.raises(redis.exceptions.ConnectionError):
        while time.monotonic() < deadline:
            client.ping()
    with pytest.raises(psycopg.OperationalError):
        while time.monotonic() < deadline:
            psycopg.connect(database, connect_timeout=2).close()
            time.sleep(0.05)
    subprocess.run(["rm", "-r", directory], check=True)


def test_the_run_has_secrets_and_a_directory_of_its_own() -> None:
    assert len(os.environ["SECRET_KEY"]) > 40
    assert len(os.environ["GATEHOUSE_ENCRYPTION_KEYS"].split(",")) == 2
    assert Path(os.environ["GATEHOUSE_DATA_DIR"]).is_dir()


def test_what_the_machine_lacks_is_said(tmp_path: Path) -> None:
    """A test marked for a browser is listed as not run where there is none, and nothing fails."""
    test = tmp_path / "test_page.py"
    test.write_text("import pytest\n\n@pytest.mark.browser\ndef test_page(): raise AssertionError('it ran')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = browser\n")
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "tests.plugin", "GATEHOUSE_CHROMIUM": ""}
    nowhere = {"PATH": "/nowhere", "HOME": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(test), "-q", "-p", "no:cacheprovider", "-c", str(tmp_path / "pytest.ini")],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **alone, **nowhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 test   Chromium is not installed" in done.stdout


def test_a_browser_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEHOUSE_CHROMIUM", "/opt/chrome")
    assert chromium() == "/opt/chrome"
