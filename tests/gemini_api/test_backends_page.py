"""docs/backends.md is what the code says today, and its snippets can be applied as they stand."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command

from gemini_api import backends_page, probes
from gemini_api.backends_page import COLUMNS, EXAMPLES, target_of
from gemini_api.probes import PROBES
from gemini_api.translators import TRANSLATORS
from routing import loading
from routing.backends import BACKENDS
from tests.upstreams.vertex import Vertex

PAGE = Path(__file__).parents[2] / "docs" / "backends.md"
SNIPPETS = [(kind, number) for kind, examples in EXAMPLES.items() for number in range(len(examples))]
PROBES_BY_TITLE = {probe.title: probe for probe in PROBES}
COLUMNS_BY_TITLE = {column.title: column for column in COLUMNS}


def test_the_committed_page_is_current() -> None:
    out = StringIO()
    call_command("backendsdoc", stdout=out)
    assert PAGE.read_text() == out.getvalue(), "run: python manage.py backendsdoc > docs/backends.md"


def test_every_kind_and_every_language_is_on_the_page() -> None:
    assert EXAMPLES.keys() == BACKENDS.keys()
    assert {column.kind for column in COLUMNS} == BACKENDS.keys()
    assert {column.language for column in COLUMNS} == TRANSLATORS.keys()


def test_no_two_probes_have_one_name() -> None:
    assert len(PROBES_BY_TITLE) == len(PROBES)


@pytest.mark.django_db
@pytest.mark.parametrize(("kind", "number"), SNIPPETS)
def test_a_snippet_can_be_applied_and_its_deployment_is_usable(
    kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = backends_page.snippet(kind, number)
    for name in re.findall(r"env:(\w+)", text):
        monkeypatch.setenv(name, service_account() if name == "VERTEX_SERVICE_ACCOUNT" else "secret")
    path = tmp_path / "gatehouse.yaml"
    path.write_text(text)
    call_command("apply", str(path), stdout=StringIO())
    catalog = loading.load()
    assert not catalog.unusable
    [model] = catalog.models
    [deployment] = model.deployments
    example = EXAMPLES[kind][number]
    assert (deployment.kind, deployment.upstream_model) == (kind, example.upstream_model)
    deployment.backend.check(deployment.endpoint)
    assert yaml.safe_load(text)["connections"][0].get("credential", {}).keys() == example.credential.keys()


def service_account() -> str:
    import json  # noqa: PLC0415 - for this one text

    vertex = Vertex()
    vertex.url = "https://oauth2.googleapis.com"
    return json.dumps({**vertex.service_account, "token_uri": "https://oauth2.googleapis.com/token"})


# What the policy says, written down by hand for the rows that matter most: column -> probe -> fate.
E, W = "refused", "dropped"
POLICY: dict[str, dict[str, str]] = {
    "Chat, gpt-4o": {"`topK`": W, "`seed`": "mapped", "`candidateCount` above 1": "mapped", "`googleSearch`": E},
    "Chat, gpt-5": {"`temperature`": W, "`stopSequences`": "here", "`responseLogprobs`": E, "`cachedContent`": E},
    "Azure Chat, gpt-4o": {"a PDF": E, "`topK`": W},
    "Gemini, OpenAI's way": {"`responseLogprobs`": E, "`thinkingConfig.includeThoughts`": W},
    "Responses, gpt-5": {
        "`candidateCount` above 1": E, "`seed`": W, "a PDF at an https address": "mapped",
        "a last turn of the model (to go on with)": W,
    },
    "Anthropic, claude-sonnet-4-5": {
        "`topK`": "mapped", "`temperature` above 1": W, "`responseLogprobs`": E, "a last turn of the model (to go on with)": "mapped",
    },
    "Anthropic, claude-opus-5-5": {"`temperature`": W, "mode ANY": W, "a last turn of the model (to go on with)": E},
    "Bedrock InvokeModel, claude-sonnet-4-5": {"a picture at an https address": E, "`seed`": W},
    "Bedrock Converse, claude-sonnet-4-5": {"`candidateCount` above 1": E, "a picture at `s3://`": "mapped"},
    "Bedrock Converse, nova-pro": {"mode VALIDATED": W, "a film: MP4": "mapped", "`responseSchema`": W, "`thinkingConfig.thinkingLevel`: HIGH": W},
    "Bedrock Converse, llama4": {"mode ANY": W, "`topK`": W, "a film: MP4": E},
    "Gemini": {"`modelArmorConfig`": W, "`labels`": "unused", "a field nobody knows": "mapped"},
    "Vertex": {"`modelArmorConfig`": "mapped", "`store`": "unused", "`fileSearch`": W},
}  # fmt: skip
EVERYWHERE_BUT_GEMINI = {
    "`safetySettings`": W, "`safetySettings`: all off": "unused", "`responseModalities`: IMAGE": E, "`cachedContent`": E,
    "`continuationToken`": E, "`googleSearch`": E, "`codeExecution`": E, "a field nobody knows": W,
    "a file at `gs://`": E, "a file of the Gemini Files API": E, "a video site's address": E, "a picture: HEIC": E,
    "`labels`": "unused", "`toolConfig.retrievalConfig`": W,
}  # fmt: skip


@pytest.mark.parametrize("title", COLUMNS_BY_TITLE)
def test_a_language_takes_drops_and_refuses_what_the_policy_says(title: str) -> None:
    column = COLUMNS_BY_TITLE[title]
    wanted = POLICY[title] | ({} if column.language == "gemini" else EVERYWHERE_BUT_GEMINI)
    target = target_of(column)
    assert {name: probes.outcome(PROBES_BY_TITLE[name], column.language, target).fate for name in wanted} == wanted


@pytest.mark.parametrize("title", COLUMNS_BY_TITLE)
def test_every_loss_and_every_refusal_names_a_field(title: str) -> None:
    column = COLUMNS_BY_TITLE[title]
    found: dict[str, Any] = {probe.title: probes.outcome(probe, column.language, target_of(column)) for probe in PROBES}
    named = {name for name, outcome in found.items() if outcome.fields and all(outcome.fields)}
    assert named == {name for name, outcome in found.items() if outcome.fate in (E, W)}
