"""manage.py demo: the whole product on loopback, with a provider to play with. Nothing else is needed; Ctrl-C ends it."""

from __future__ import annotations

import os
import secrets as random_secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from proxy_site import env

EMAIL = "admin@demo.example"
MANAGE = [sys.executable, str(env.BASE_DIR / "manage.py")]

CONFIGURATION = """
organizations:
  - slug: acme
    name: Acme
    teams: [{{slug: search, name: Search}}, {{slug: support, name: Support}}]
    limits: [{{metric: spend, amount: 100, period: month}}]
connections:
  - {{name: demo-gemini, kind: gemini, base_url: "http://127.0.0.1:{upstream}", credential: {{api_key: demo}}, allow_private: true}}
  - {{name: demo-openai, kind: openai, base_url: "http://127.0.0.1:{upstream}/v1", credential: {{api_key: demo}}, allow_private: true}}
models:
  - name: gemini-2.5-flash
    aliases: [fast]
    description: Answered by a Gemini and by an OpenAI-speaking deployment.
    deployments:
      - {{connection: demo-gemini, upstream_model: gemini-2.5-flash, weight: 2}}
      - {{connection: demo-openai, upstream_model: gpt-4o-mini, weight: 1}}
  - name: gemini-2.5-pro
    description: Answered over Chat Completions.
    deployments:
      - {{connection: demo-openai, upstream_model: gpt-4o}}
keys:
  - {{organization: acme, team: search, name: demo, allowed_models: ["gemini-2.5-*"], secret: "{secret}"}}
  - organization: acme
    team: search
    name: search-web
    limits: [{{metric: requests, amount: 600, period: minute}}, {{metric: spend, amount: 60, period: month}}]
  - organization: acme
    team: support
    name: support-bot
    allowed_models: [gemini-2.5-flash]
    limits: [{{metric: spend, amount: 1, period: day}}]
  - organization: acme
    name: ci
    allowed_models: ["gemini-*"]
    denied_models: ["*-pro"]
    limits: [{{metric: concurrent, amount: 4, period: minute}}, {{metric: spend, amount: 2, period: day}}]
"""

READY = """
Gatehouse is running.

  Admin      {url}/admin/
             {email}  /  {password}
  Key        {secret}
  Models     gemini-2.5-flash (alias: fast), gemini-2.5-pro

Ask something:

  curl -s {url}/v1beta/models/gemini-2.5-flash:generateContent -H 'x-goog-api-key: {secret}' -d '{{"contents":[{{"parts":[{{"text":"Hello"}}]}}]}}'

gemini-cli (without the first line it exits with "Invalid auth method selected"; an existing settings.json needs the same entry):

  mkdir -p ~/.gemini && [ -e ~/.gemini/settings.json ] || echo '{{"security":{{"auth":{{"selectedType":"gemini-api-key"}}}}}}' > ~/.gemini/settings.json
  export GEMINI_API_KEY={secret} GOOGLE_GEMINI_BASE_URL={url}
  gemini --skip-trust -m gemini-2.5-flash -p "Hello"

The demo upstream has no model behind it; [[tool]], [[long:40]], [[delay:2]] or [[error:503]] in a prompt make it do that.
Everything is kept in {data}. Press Ctrl-C to stop.
"""


class Command(BaseCommand):
    help = "Run everything on loopback with a demo upstream, a seeded organization, key and history."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=settings.GATEHOUSE.port)
        parser.add_argument("--no-history", action="store_true", help="Leave out the two weeks of made-up history.")
        parser.add_argument("--seed", action="store_true", help="Only write the history (used by the demo itself).")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["seed"]:
            from proxy_site.demo import history

            history.write()
            return
        # In a directory of its own, whatever this machine's environment says, so that it can touch nothing real.
        data = (Path(settings.DATA_DIR) / "demo").resolve()
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        port = options["port"] if is_free(options["port"]) else free_port()
        variables = demo_environment(data, port)
        password = kept(data / "password", lambda: random_secrets.token_urlsafe(12))
        variables["GATEHOUSE_ADMIN_PASSWORD"] = password

        from keys import secrets

        secret = kept(data / "key", secrets.make)
        children: list[subprocess.Popen[bytes]] = []
        signal.signal(signal.SIGTERM, interrupted)
        try:
            run([*MANAGE, "init"], variables)
            upstream_port = free_port()
            children.append(start(uvicorn_line(upstream_port), variables))
            run([*MANAGE, "apply", "-"], variables, CONFIGURATION.format(upstream=upstream_port, secret=secret))
            if not options["no_history"]:
                run([*MANAGE, "demo", "--seed"], variables)
            children.append(start([*MANAGE, "serve", "--port", str(port)], variables))
            wait_until_ready(port, children[-1])
            url = f"http://127.0.0.1:{port}"
            self.stdout.write(READY.format(url=url, email=EMAIL, password=password, secret=secret, data=data))
            self.stdout.flush()
            children[-1].wait()
        except KeyboardInterrupt:
            self.stdout.write("\nStopping.")
        finally:
            stop(children)


def demo_environment(data: Path, port: int) -> dict[str, str]:
    return {
        "GATEHOUSE_DATA_DIR": str(data),
        "DATABASE_URL": "",
        "REDIS_URL": "",
        "SECRET_KEY": "",
        "GATEHOUSE_PEPPER": "",
        "GATEHOUSE_ENCRYPTION_KEYS": "",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WEB_CONCURRENCY": "1",
        "GATEHOUSE_PUBLIC_URL": "",
        "GATEHOUSE_OIDC_ISSUER": "",
        "GATEHOUSE_PASSWORD_LOGIN": "",
        "GATEHOUSE_ADMIN_EMAIL": EMAIL,
        "LOG_LEVEL": "WARNING",
    }


def uvicorn_line(port: int) -> list[str]:
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--log-level",
        "critical",
        "--no-access-log",
        "--lifespan",
        "off",
    ]
    return [sys.executable, "-m", "uvicorn", "proxy_site.demo.upstream:app", *options]


def kept(path: Path, make: Any) -> str:
    """A secret that survives a restart, readable by its owner only."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(make())
    return path.read_text()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(line: list[str], variables: dict[str, str], text: str = "") -> None:
    done = subprocess.run(
        line, env=with_(variables), cwd=env.BASE_DIR, input=text, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise CommandError(f"`{' '.join(line[1:3])}` failed: {done.stderr or done.stdout}")


def start(line: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    # Their own group: Ctrl-C reaches this command alone, which then stops them in order.
    return subprocess.Popen(line, env=with_(variables), cwd=env.BASE_DIR, start_new_session=True)


def with_(variables: dict[str, str]) -> dict[str, str]:
    return env.inherited() | variables


def stop(children: list[subprocess.Popen[bytes]]) -> None:
    for child in reversed(children):
        if child.poll() is None:
            child.terminate()
    for child in reversed(children):
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()


def interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def wait_until_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if server.poll() is not None:
            raise CommandError("The server ended by itself; its log is above.")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise CommandError("The server did not become ready within 30 seconds.")
