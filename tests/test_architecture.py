"""How the house is built, as rules that can fail: which way imports go, who owns which library, what stays pure,
and that no vendor's name decides anything outside its own files.

Every rule is a function from one parsed file to sentences; each has a twin that plants a violation.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parent.parent

# Right to left: a room may import itself and what stands before it.
ROOMS = ("lib", "keys", "routing", "usage", "gemini_api", "proxy_site")

# Who may import an outside library, directly. An empty set: nobody.
OWNERS: dict[str, frozenset[str]] = {
    "pyreqwest": frozenset(),  # the bench's relay compares with it
    "httptools": frozenset({"routing/http1.py"}),
    "prometheus_client": frozenset({"lib/metrics.py"}),
    "redis": frozenset({"lib/store.py", "lib/bus.py"}),
    "tiktoken": frozenset({"gemini_api/tokens.py"}),
    "orjson": frozenset({"lib/json.py"}),
    "botocore": frozenset({"routing/backends/bedrock.py"}),
    "google.auth": frozenset({"routing/backends/vertex.py", "routing/credentials.py"}),
    "google.oauth2": frozenset({"routing/backends/vertex.py", "routing/credentials.py"}),
    "genai_prices": frozenset({"usage/prices.py"}),
    "joserfc": frozenset({"proxy_site/console/oidc.py"}),
    "fido2": frozenset({"proxy_site/console/passkeys.py"}),
    "httpx": frozenset(),  # httpx2 is its maintained continuation
    "aiohttp": frozenset(),
}
ENVIRONMENT = frozenset({"proxy_site/env.py"})

PURE = (
    "gemini_api/translators/*.py",
    "keys/policy.py",
    "keys/limits/windows.py",
    "routing/framing.py",
    "routing/scores.py",
    "routing/strategies.py",
    "routing/breaker.py",
)
IMPURE = frozenset(
    [
        "django",
        "ninja",
        "asyncio",
        "socket",
        "ssl",
        "http",
        "urllib.request",
        "subprocess",
        "threading",
        "redis",
        "pyreqwest",
        "httpx2",
        "psycopg",
    ]
)

# A vendor's words, and the files that may decide by them (beside its backend).
VENDORS: dict[str, frozenset[str]] = {
    "openai": frozenset({"gemini_api/translators/chat_completions.py", "gemini_api/translators/responses.py"}),
    "azure": frozenset({"gemini_api/translators/chat_completions.py", "gemini_api/translators/responses.py"}),
    "gpt-": frozenset({"gemini_api/translators/chat_completions.py", "gemini_api/translators/responses.py"}),
    "anthropic": frozenset({"gemini_api/translators/anthropic_messages.py"}),
    "claude": frozenset({"gemini_api/translators/anthropic_messages.py", "gemini_api/translators/bedrock_converse.py"}),
    "bedrock": frozenset({"gemini_api/translators/bedrock_converse.py"}),
    "vertex": frozenset({"gemini_api/translators/gemini.py"}),
}


@dataclass(frozen=True)
class Source:
    path: str  # from the house's door, with forward slashes
    nodes: tuple[ast.AST, ...]  # every one of its syntax tree

    @property
    def room(self) -> str:
        return self.path.partition("/")[0]


def written(path: str, text: str) -> Source:
    return Source(path, tuple(ast.walk(ast.parse(text, path))))


@cache
def sources() -> tuple[Source, ...]:
    files = [path for room in ROOMS for path in sorted((HOUSE / room).rglob("*.py")) if "migrations" not in path.parts]
    return tuple(written(path.relative_to(HOUSE).as_posix(), path.read_text()) for path in files)


def imports(source: Source) -> Iterator[str]:
    """Every module a file names in an import, dotted and absolute, wherever in the file it stands."""
    package = source.path.removesuffix(".py").split("/")[:-1]
    for node in source.nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{name.name}" for name in node.names)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


# ── the rules ──


def imports_go_one_way(source: Source) -> Iterator[str]:
    for module in imports(source):
        room = module.partition(".")[0]
        if room in ROOMS and ROOMS.index(room) > ROOMS.index(source.room):
            yield f"{source.path} imports {module}: {room} stands to the left of {source.room}"


def every_library_has_its_owner(source: Source) -> Iterator[str]:
    for module in imports(source):
        for library, owners in OWNERS.items():
            if inside(module, library) and source.path not in owners:
                yield f"{source.path} imports {module}: that is for {', '.join(sorted(owners)) or 'nobody'}"


def the_environment_is_read_in_one_place(source: Source) -> Iterator[str]:
    if source.path in ENVIRONMENT:
        return
    for module in imports(source):
        if module in ("os.environ", "os.getenv", "os.putenv"):
            yield f"{source.path} imports {module}"
    naming_the_settings: set[ast.AST] = (
        set()
    )  # Django's own first line: os.environ.setdefault("DJANGO_SETTINGS_MODULE", …)
    for node in source.nodes:
        match node:
            case ast.Call(
                func=ast.Attribute(value=environ, attr="setdefault"),
                args=[ast.Constant(value="DJANGO_SETTINGS_MODULE"), _],
            ):
                naming_the_settings.add(environ)
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv" | "putenv" as name):
                if node not in naming_the_settings:
                    yield f"{source.path}:{node.lineno} uses os.{name}"


def what_is_pure_stays_pure(source: Source) -> Iterator[str]:
    if not any(Path(source.path).match(pattern) for pattern in PURE):
        return
    for module in imports(source):
        if any(inside(module, library) for library in IMPURE):
            yield f"{source.path} imports {module}"
    for node in source.nodes:
        if isinstance(node, ast.AsyncFunctionDef):
            yield f"{source.path}:{node.lineno} is async: {node.name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print"):
            yield f"{source.path}:{node.lineno} calls {node.func.id}()"


def no_vendor_decides_outside_its_files(source: Source) -> Iterator[str]:
    if source.path.startswith("routing/backends/"):
        return
    for line, text in decisions(source.nodes):
        word = text.lower()
        for vendor, files in VENDORS.items():
            if vendor in word and source.path not in files:
                yield f"{source.path}:{line} decides by {text!r}"
        # The hub's own language is called like a vendor, so only a comparison with exactly that kind counts.
        if word in kinds() and word not in VENDORS and not any(vendor in word for vendor in VENDORS):
            yield f"{source.path}:{line} decides by the kind {text!r}"


@cache
def kinds() -> frozenset[str]:
    return frozenset(path.stem for path in (HOUSE / "routing/backends").glob("*.py")) - {"__init__", "base"}


def decisions(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Every text that something is compared with: ==, in, a case, startswith and its kin."""
    for node in nodes:
        compared: list[ast.AST] = []
        match node:
            case ast.Compare(left=left, comparators=others):
                compared = [left, *others]
            case ast.MatchValue(value=value):
                compared = [value]
            case ast.Call(func=ast.Attribute(attr="startswith" | "endswith" | "removeprefix" | "find"), args=args):
                compared = list(args)
        for part in compared:
            members = part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part]
            for member in members:
                if isinstance(member, ast.Constant) and isinstance(member.value, str):
                    yield member.lineno, member.value


RULES: tuple[Callable[[Source], Iterator[str]], ...] = (
    imports_go_one_way,
    every_library_has_its_owner,
    the_environment_is_read_in_one_place,
    what_is_pure_stays_pure,
    no_vendor_decides_outside_its_files,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rules(rule: Callable[[Source], Iterator[str]]) -> None:
    assert [sentence for source in sources() for sentence in rule(source)] == []


PLANTED = [
    (imports_go_one_way, "keys/lookup.py", "from routing import catalog"),
    (imports_go_one_way, "lib/store.py", "import keys.models"),
    (imports_go_one_way, "routing/backends/vertex.py", "def late():\n    from usage.event import UsageEvent"),
    (imports_go_one_way, "keys/limits/admit.py", "from ...gemini_api import errors"),
    (every_library_has_its_owner, "gemini_api/views.py", "from pyreqwest.client import ClientBuilder"),
    (every_library_has_its_owner, "keys/limits/redis.py", "import redis.asyncio as redis"),
    (every_library_has_its_owner, "routing/probe.py", "from google.oauth2 import service_account"),
    (every_library_has_its_owner, "routing/probe.py", "from google import auth"),
    (every_library_has_its_owner, "routing/upstream.py", "import httpx"),
    (the_environment_is_read_in_one_place, "routing/credentials.py", "import os\nkey = os.environ['KEY']"),
    (the_environment_is_read_in_one_place, "usage/spool.py", "from os import getenv"),
    (what_is_pure_stays_pure, "gemini_api/translators/responses.py", "from django.conf import settings"),
    (what_is_pure_stays_pure, "keys/policy.py", "async def check() -> None: ..."),
    (what_is_pure_stays_pure, "routing/scores.py", "table = open('scores').read()"),
    (no_vendor_decides_outside_its_files, "gemini_api/dispatch.py", "if kind == 'azure_openai': pass"),
    (no_vendor_decides_outside_its_files, "gemini_api/dispatch.py", "if language != 'gemini': pass"),
    (no_vendor_decides_outside_its_files, "usage/prices.py", "if model.startswith('claude-'): pass"),
    (no_vendor_decides_outside_its_files, "routing/probe.py", "if kind in ('vertex', 'gemini'): pass"),
    (no_vendor_decides_outside_its_files, "gemini_api/views.py", "match kind:\n    case 'bedrock': pass"),
    (no_vendor_decides_outside_its_files, "gemini_api/translators/responses.py", "if 'claude' in model: pass"),
]


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_a_planted_violation_is_found(rule: Callable[[Source], Iterator[str]], path: str, text: str) -> None:
    assert list(rule(written(path, text)))


ALLOWED = [
    (imports_go_one_way, "proxy_site/asgi.py", "from lib import bus\nfrom gemini_api import api"),
    (imports_go_one_way, "usage/ledger.py", "from .event import UsageEvent\nimport keyring"),
    (every_library_has_its_owner, "routing/http1.py", "import httptools"),
    (every_library_has_its_owner, "routing/probe.py", "import httpx2\nfrom google.rpc import status"),
    (the_environment_is_read_in_one_place, "usage/spool.py", "import os\nos.replace('a', 'b')"),
    (
        the_environment_is_read_in_one_place,
        "proxy_site/asgi.py",
        "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'proxy_site.settings')",
    ),
    (what_is_pure_stays_pure, "routing/upstream.py", "import asyncio"),
    (no_vendor_decides_outside_its_files, "routing/backends/azure_openai.py", "if api == 'azure': pass"),
    (no_vendor_decides_outside_its_files, "proxy_site/console/views.py", "LABELS = {'bedrock': 'AWS Bedrock'}"),
    (no_vendor_decides_outside_its_files, "gemini_api/translators/anthropic_messages.py", "if 'claude' in m: pass"),
]


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_what_is_allowed_is_left_alone(rule: Callable[[Source], Iterator[str]], path: str, text: str) -> None:
    assert list(rule(written(path, text))) == []


def test_pure_modules_do_not_bring_django_in_by_a_back_door() -> None:
    """Imported for real, one after the other: what they import may not import Django either.

    The front of keys.limits reads the settings, and stands before windows.py only because Python runs it first; so it
    is left empty here, and a pure module that leaned on it would fail to import.
    """
    modules = [
        source.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for source in sources()
        if any(Path(source.path).match(pattern) for pattern in PURE)
    ]
    program = (
        "import sys, types\nfront = sys.modules['keys.limits'] = types.ModuleType('keys.limits')\n"
        f"front.__path__ = ['keys/limits']\nfor name in {modules!r}:\n    __import__(name)\n"
        "    if 'django' in sys.modules: sys.exit(f'importing {name} imports Django')"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=HOUSE, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
