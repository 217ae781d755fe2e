"""docs/backends.md, from the code's own declarations: nothing on that page is written by hand but what is in here.

Connections come from `routing/backends`, the matrix from asking every translator each of `probes.PROBES`, the other
tables from the translators' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gemini_api import probes
from gemini_api.translators import TRANSLATORS, capabilities, media, names, responses, thinking
from gemini_api.translators import anthropic_messages as anthropic
from gemini_api.translators import bedrock_converse as converse
from gemini_api.translators import chat_completions as chat
from gemini_api.translators.base import Json, Target
from routing.backends import BACKENDS
from routing.backends.base import Backend, CredentialField, Endpoint


@dataclass(frozen=True)
class Example:
    """One connection of a kind, as somebody would write it. upstream_model: one that is served there."""

    upstream_model: str
    base_url: str = ""
    credential: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    said: str = ""


@dataclass(frozen=True)
class Column:
    """One column of the matrix: a language as a certain model takes it."""

    title: str
    kind: str
    language: str
    model: str
    options: Mapping[str, str] = field(default_factory=dict)


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "gemini": (Example("gemini-2.5-flash", credential={"api_key": "env:GEMINI_API_KEY"}),),
    "vertex": (
        Example(
            "gemini-2.5-flash",
            credential={"service_account": "env:VERTEX_SERVICE_ACCOUNT"},
            options={"project": "my-project", "location": "europe-west4"},
            said="A service account's key file, as JSON in the variable:",
        ),
        Example(
            "claude-sonnet-4-5@20250929",
            credential={"adc": True},
            options={"project": "my-project", "location": "us-east5", "publisher": "anthropic"},
            said="Anthropic's models, with the machine's own identity (workload identity, metadata server, gcloud):",
        ),
    ),
    "gemini_openai": (Example("gemini-2.5-flash", credential={"api_key": "env:GEMINI_API_KEY"}),),
    "openai": (
        Example("gpt-4o", credential={"api_key": "env:OPENAI_API_KEY"}),
        Example("qwen3-32b", base_url="http://127.0.0.1:8000/v1", said="A server of your own, without a key:"),
    ),
    "openai_responses": (Example("gpt-5", credential={"api_key": "env:OPENAI_API_KEY"}),),
    "azure_openai": (
        Example(
            "my-gpt-4o",
            base_url="https://my-resource.openai.azure.com",
            credential={"api_key": "env:AZURE_OPENAI_API_KEY"},
            options={"api_version": "2024-10-21"},
            said="The classic path, with a key. `upstream_model` is the name of the deployment over there, so say in "
            "`base_model` which model that is:",
        ),
        Example(
            "my-gpt-5",
            base_url="https://my-resource.openai.azure.com",
            credential={
                "tenant_id": "11111111-2222-3333-4444-555555555555",
                "client_id": "66666666-7777-8888-9999-000000000000",
                "client_secret": "env:AZURE_CLIENT_SECRET",
            },
            options={"api_version": "v1", "api": "responses"},
            said="The v1 path and the Responses API, with Entra client credentials:",
        ),
    ),
    "anthropic": (Example("claude-sonnet-4-5", credential={"api_key": "env:ANTHROPIC_API_KEY"}),),
    "bedrock": (
        Example(
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            credential={
                "aws_access_key_id": "env:AWS_ACCESS_KEY_ID",
                "aws_secret_access_key": "env:AWS_SECRET_ACCESS_KEY",
            },
            options={"region": "us-east-1"},
            said="An access key; requests are signed with SigV4:",
        ),
        Example(
            "amazon.nova-pro-v1:0",
            credential={"bearer_token": "env:AWS_BEARER_TOKEN_BEDROCK"},
            options={"region": "us-east-1", "api": "converse"},
            said="A Bedrock API key:",
        ),
        Example(
            "us.meta.llama4-maverick-17b-instruct-v1:0",
            credential={"chain": True},
            options={"region": "us-east-1"},
            said="What the machine has (profile, instance role, container role):",
        ),
    ),
}
BASE_MODELS = {"my-gpt-4o": "gpt-4o", "my-gpt-5": "gpt-5"}  # of Azure's deployments

_REGION = {"region": "us-east-1"}
COLUMNS = (
    Column("Gemini", "gemini", "gemini", "gemini-2.5-flash"),
    Column("Vertex", "vertex", "gemini", "gemini-2.5-flash", {"project": "my-project"}),
    Column("Gemini, OpenAI's way", "gemini_openai", "chat_completions", "gemini-2.5-flash"),
    Column("Chat, gpt-4o", "openai", "chat_completions", "gpt-4o"),
    Column("Chat, gpt-5", "openai", "chat_completions", "gpt-5"),
    Column("Azure Chat, gpt-4o", "azure_openai", "chat_completions", "gpt-4o"),
    Column("Responses, gpt-5", "openai_responses", "responses", "gpt-5"),
    Column("Anthropic, claude-sonnet-4-5", "anthropic", "anthropic_messages", "claude-sonnet-4-5"),
    Column("Anthropic, claude-opus-5-5", "anthropic", "anthropic_messages", "claude-opus-5-5"),
    Column(
        "Bedrock InvokeModel, claude-sonnet-4-5", "bedrock", "anthropic_messages",
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0", _REGION,
    ),
    Column(
        "Bedrock Converse, claude-sonnet-4-5", "bedrock", "bedrock_converse",
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0", _REGION,
    ),
    Column("Bedrock Converse, nova-pro", "bedrock", "bedrock_converse", "amazon.nova-pro-v1:0", _REGION),
    Column("Bedrock Converse, llama4", "bedrock", "bedrock_converse", "us.meta.llama4-maverick-17b-instruct-v1:0", _REGION),
)  # fmt: skip
SIGNS: dict[probes.Fate, str] = {"mapped": "yes", "here": "here", "unused": "–", "dropped": "W", "refused": "**E**"}

INTRODUCTION = """\
# Backends

How to connect each kind of backend, and what becomes of a Gemini request there. This page is made from the code by
`manage.py backendsdoc > docs/backends.md`; a test fails when it is not current.

A **kind** is a place: an address, a credential, a signature. A **language** is how it is spoken to. A server that imitates
OpenAI needs no kind of its own: it is a connection of kind `openai` with its base URL.
"""
READING = """\
## What becomes of a request

Every row was asked of the translator itself, for the model in the column's head. Other models of a language differ where
their row in [the tables of models](#models) does.

| | |
|---|---|
| yes | It is sent on, in the backend's own words. |
| here | The gateway does it itself (stop sequences are looked for in the answer, thoughts are shown if the model tells any). |
| – | Nothing is sent, and nothing is lost: bookkeeping, or what the model does anyway. |
| W | Left out, because the answer is still an answer to the question. Named in the header `x-gatehouse-dropped` and in the \
request's record. With `strict_fields` on the key or on the model, a 400 that names the field, and nothing is sent. |
| **E** | Refused with 400 and the field's name, because leaving it out would change what comes back. Nothing is sent. |
"""
MORE = """\
## What holds everywhere

- **Streams** are passed on chunk by chunk. Function calls leave whole, in the last chunk with `finishReason` and usage.
- **Function names** that a backend does not allow become legal ones that stay the same from call to call, and come back as
  they were. Ids of calls are the backend's own; without one, an id is made.
- **Another vendor's reasoning** travels inside `thoughtSignature`, sealed for this installation and this organization, and
  is put back where the same vendor (and, for OpenAI, the same account) is asked again. Anything else in that field is left
  out; Gemini gets the documented dummy in its place. When an upstream refuses a signature, it is asked once more without.
- **Parameters a model turns out not to take** are left out of a second try when they only tune (the table below). The
  deployment is remembered for an hour, and from then on it is a loss (W) like any other: named, or a 400 when strict.
- **An answer that can be continued** (`finishReason: CONTINUATION`) is continued by the deployment that began it, as long
  as it is usable and the process that saw it is asked (for an hour).
- **URLs of clients are never fetched here**: a file at an address is handed on where the backend takes one.

## Counting tokens

`countTokens` answers with our own count (o200k_base, times the factor of the model's family), header
`x-gatehouse-token-count: estimate`. With `exact_token_count: true` on a deployment whose kind can count, the vendor is asked,
and the header says `exact`. When that fails or takes more than 5 seconds, the estimate is the answer. An exact count is kept
for 10 seconds, because command-line clients ask again and again. `token_factor` under a deployment's `capabilities`
overrides the factor.

## Embeddings

`embedContent`, `batchEmbedContents` and Vertex's `predict` go to deployments whose kind embeds. OpenAI's language has no
`taskType`, `title` and `autoTruncate` (W), and embeds text only (E for everything else). All requests of a batch must name
the path's model. A batch that is larger than a backend takes at once goes out in several exchanges.
"""


def page() -> str:
    return "\n".join(_sections()).rstrip() + "\n"


def _sections() -> Iterable[str]:
    yield INTRODUCTION
    yield table(("kind", "what it is", "languages", "counts", "embeds"), _overview())
    for kind in EXAMPLES:
        yield from _kind(kind, BACKENDS[kind])
    yield READING
    for group in dict.fromkeys(probe.group for probe in probes.PROBES):
        yield f"### {group}\n"
        yield table(("", *(column.title for column in COLUMNS)), _matrix(group))
    yield MORE
    yield "## Tables\n"
    yield from _tables()
    yield from _models()


# --- Kinds ------------------------------------------------------------------------------------------------------------


def _overview() -> Iterable[tuple[str, ...]]:
    for kind, examples in EXAMPLES.items():
        backend = BACKENDS[kind]
        spoken = dict.fromkeys(column.language for column in COLUMNS if column.kind == kind)
        spoken |= dict.fromkeys(_spoken(kind, example) for example in examples)
        yield (
            f"[`{kind}`](#{kind})", backend.label, ", ".join(f"`{each}`" for each in spoken),
            _tick("count" in backend.actions), _tick("embed" in backend.actions),
        )  # fmt: skip


def _spoken(kind: str, example: Example) -> str:
    options = {name: str(value) for name, value in example.options.items()}
    return BACKENDS[kind].speaks(Endpoint(kind, example.base_url, example.upstream_model, options=options))


def _tick(yes: bool) -> str:
    return "yes" if yes else ""


def _kind(kind: str, backend: Backend) -> Iterable[str]:
    yield f"## {kind}\n"
    address = f" By default `{backend.base_url}`." if backend.base_url else ""
    yield f"{backend.label}. Base URL: {backend.base_url_help or 'the default is right.'}{address}\n"
    for number, example in enumerate(EXAMPLES[kind]):
        if example.said:
            yield f"{example.said}\n"
        yield f"```yaml\n{snippet(kind, number)}```\n"
    yield table(("credential", "group", "", "what it is"), (_credential(each) for each in backend.credential_fields))
    if backend.options:
        yield table(
            ("option", "default", "values", "what it is"),
            (
                (
                    f"`{each.name}`", f"`{each.default}`" if each.default else "required" if each.required else "",
                    ", ".join(f"`{choice}`" for choice in each.choices), _sentence(each.label, each.help),
                )
                for each in backend.options
            ),
        )  # fmt: skip


def _credential(given: CredentialField) -> tuple[str, ...]:
    needed = "`true`" if given.switch else "" if given.required else "optional"
    return f"`{given.name}`", given.group, needed, _sentence(given.label, given.help)


def _sentence(label: str, more: str) -> str:
    return f"{label}. {more}".strip()


def snippet(kind: str, number: int = 0) -> str:
    """A file for `manage.py apply`: a connection of that kind and a model over it."""
    example = EXAMPLES[kind][number]
    name = f"{kind.replace('_', '-')}-{number + 1}" if number else kind.replace("_", "-")
    connection: Json = {"name": name, "kind": kind}
    if example.base_url:
        connection["base_url"] = example.base_url
    if example.base_url.startswith("http:"):
        connection["allow_private"] = True
    connection |= {
        key: value for key, value in (("credential", example.credential), ("options", example.options)) if value
    }
    deployment = {"connection": name, "upstream_model": example.upstream_model}
    if example.upstream_model in BASE_MODELS:
        deployment["base_model"] = BASE_MODELS[example.upstream_model]
    lines = ["connections:", *_yaml_item(connection)]
    lines += ["models:", f"  - name: through-{name}", "    deployments:", f"      - {_flow(deployment)}"]
    return "\n".join(lines) + "\n"


def _yaml_item(fields: Json) -> list[str]:
    lines = [f"{name}: {_flow(value) if isinstance(value, dict) else _scalar(value)}" for name, value in fields.items()]
    return [f"  {'-' if place == 0 else ' '} {line}" for place, line in enumerate(lines)]


def _flow(fields: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {_scalar(value)}" for name, value in fields.items()) + "}"


def _scalar(value: Any) -> str:
    if value is True:
        return "true"
    text = str(value)
    return f'"{text}"' if ":" in text or text[:1].isdigit() else text


# --- The matrix -------------------------------------------------------------------------------------------------------


def target_of(column: Column) -> Target:
    return Target(
        model=column.model,
        base_model=column.model,
        capabilities=BACKENDS[column.kind].capabilities,
        options=column.options,
    )


def _matrix(group: str) -> Iterable[tuple[str, ...]]:
    for probe in probes.PROBES:
        if probe.group == group:
            outcomes = (probes.outcome(probe, column.language, target_of(column)) for column in COLUMNS)
            yield probe.title, *(SIGNS[outcome.fate] for outcome in outcomes)


# --- The code's tables ------------------------------------------------------------------------------------------------


def _tables() -> Iterable[str]:
    yield "### Finish reasons\n"
    told = {
        "chat_completions": chat.FINISH_REASONS,
        "responses": {"completed": "STOP", **responses.INCOMPLETE},
        "anthropic_messages": anthropic.REASONS,
        "bedrock_converse": converse.REASONS,
    }
    reasons = dict.fromkeys(reason for found in told.values() for reason in found.values())
    yield table(
        ("Gemini", *told),
        (
            (f"`{reason}`", *(", ".join(f"`{there}`" for there, here in found.items() if here == reason) for found in told.values()))
            for reason in reasons
        ),
    )  # fmt: skip
    yield "### Thinking: budgets and levels as efforts\n"
    steps = (0, 512, 1024, 8192, 24576, 24577)
    yield table(
        ("`thinkingBudget` up to", "effort", "Anthropic's budget", "Gemini 2.5's budget"),
        (
            (str(step) if step < 24577 else "more", f"`{effort}`", str(thinking.ANTHROPIC_BUDGETS.get(effort, "")),
             str(thinking.GEMINI_BUDGETS[effort]))
            for step in steps
            if (effort := thinking.effort({"thinkingBudget": step}))
        ),
    )  # fmt: skip
    yield "A level is the effort of its name. A model that lacks an effort gets the next lower one, else the next higher.\n"
    yield "### Files\n"
    kinds = dict.fromkeys(sorted((place, kind) for taken in media.TAKES.values() for place, kind in taken))
    yield table(
        ("where it lies, what it is", *media.TAKES),
        (
            (f"{place}: {kind}", *(_tick((place, kind) in taken) for taken in media.TAKES.values()))
            for place, kind in kinds
        ),
    )
    yield "Sound and films depend on the model besides; Claude hosted on Vertex and Bedrock takes no addresses.\n"
    yield "### Names of functions\n"
    yield table(("language", "most characters"), ((f"`{name}`", str(most)) for name, most in names.LIMITS.items()))
    yield "### What a second try may leave out\n"
    for language, module in sorted(TRANSLATORS.items()):
        found: Mapping[str, str] = getattr(module, "DISPENSABLE", {})
        if found:
            yield f"`{language}`: {', '.join(f'`{name}`' for name in found)}.\n"
    yield "### Factors of our token count\n"
    factors = sorted(capabilities.TOKEN_FACTORS.items(), key=lambda item: (item[1], item[0]))
    yield table(
        ("factor", "models that begin with"),
        (
            (
                f"{factor:g}",
                ", ".join(f"`{name}`" if name else "everything else" for name, its in factors if its == factor),
            )
            for factor in dict.fromkeys(factor for _, factor in factors)
        ),
    )


def _models() -> Iterable[str]:
    yield "## Models\n"
    yield (
        "What is known of models, by the longest beginning of the name that fits; a row says where it differs from the first."
        " Any value can be set under a deployment's `capabilities`: a new model needs no new release. What the words mean is"
        " said in `gemini_api/translators/capabilities.py`.\n"
    )
    for title, default, rows in (
        ("OpenAI's languages", capabilities.OPENAI_DEFAULT, capabilities.OPENAI),
        ("Anthropic Messages", capabilities.ANTHROPIC_DEFAULT, capabilities.ANTHROPIC),
        ("Bedrock Converse", capabilities.CONVERSE_DEFAULT, capabilities.CONVERSE),
        ("Gemini", capabilities.GEMINI_DEFAULT, capabilities.GEMINI),
    ):
        yield f"### {title}\n"
        differences = (
            (f"`{name}`", _values({key: value for key, value in row.items() if default.get(key) != value}))
            for name, row in rows.items()
        )
        yield table(("model", "capabilities"), [("everybody", _values(default)), *differences])


def _values(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in row.items())


def _value(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return " ".join(str(each) for each in value) or "none"
        case dict():
            return " ".join(str(each) for each in value.values())
        case "":
            return "none"
    return str(value)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *(list(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
