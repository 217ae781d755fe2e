"""`manage.py apply`: the form of the file, sameness on repetition, and what it refuses by name."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from keys import audit, secrets
from keys.models import AuditEvent, KeySecret, Limit, Organization, VirtualKey
from routing import credentials
from routing.models import Connection, Deployment, PublicModel
from usage.models import PriceOverride

pytestmark = pytest.mark.django_db

FILE = """
organizations:
  - {slug: acme, name: Acme, teams: [{slug: search, name: Search}], limits: [{metric: spend, period: month, amount: "50.00"}]}
connections:
  - name: openai-main
    kind: openai
    base_url: http://127.0.0.1:9100/v1
    credential: {api_key: env:GATEHOUSE_TEST_PROVIDER_KEY}
    allow_private: true
    options: {}
models:
  - name: gemini-2.5-flash
    aliases: [fast]
    deployments:
      - {connection: openai-main, upstream_model: gpt-4o, weight: 1, priority: 0, price: {input: 1, output: 2}}
keys:
  - {organization: acme, team: search, name: ci, allowed_models: ["gemini-*"], limits: [{metric: requests, period: minute, amount: 60}]}
"""


@pytest.fixture(autouse=True)
def provider_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEHOUSE_TEST_PROVIDER_KEY", "sk-provider")


def apply(tmp_path: Path, text: str, *options: str) -> Any:
    path = tmp_path / "gatehouse.yaml"
    path.write_text(text)
    out = StringIO()
    call_command("apply", str(path), "--json", *options, stdout=out)
    return json.loads(out.getvalue())


def test_everything_in_the_file_is_there_afterwards(tmp_path: Path) -> None:
    said = apply(tmp_path, FILE)
    key = VirtualKey.objects.get(name="ci")
    assert (key.organization.slug, key.team and key.team.slug, key.allowed_models) == ("acme", "search", ["gemini-*"])
    assert [each["name"] for each in said["keys"]] == ["ci"]
    assert said["keys"][0]["secret"].startswith("gate_")
    assert credentials.open_(Connection.objects.get()) == {"api_key": "sk-provider"}
    assert PublicModel.objects.get().aliases == ["fast"]
    assert Deployment.objects.get().upstream_model == "gpt-4o"
    assert PriceOverride.objects.get().deployment_id == str(Deployment.objects.get().pk)
    assert {limit.metric for limit in Limit.objects.all()} == {"spend", "requests"}


def test_applying_it_again_changes_nothing_and_shows_no_secret(tmp_path: Path) -> None:
    apply(tmp_path, FILE)
    events = AuditEvent.objects.count()
    assert apply(tmp_path, FILE) == {"dry_run": False, "changes": [], "keys": []}
    assert AuditEvent.objects.count() == events


def test_a_file_of_many_models_asks_the_database_as_often_as_one_of_a_few(tmp_path: Path) -> None:
    def queries(count: int) -> int:
        many = yaml.safe_load(FILE)
        model = many["models"][0]
        many["models"] = [model | {"name": f"of-{count}-{number}", "aliases": []} for number in range(count)]
        with CaptureQueriesContext(connection) as asked:
            apply(tmp_path, yaml.safe_dump(many))
        assert PublicModel.objects.filter(name__startswith=f"of-{count}-").count() == count
        return len(asked)

    apply(tmp_path, FILE)
    assert queries(2) == queries(30)
    assert audit.verify() is None
    assert AuditEvent.objects.filter(action="deployment.created").count() == 33


def test_what_a_file_says_twice_is_one_row_and_the_last_word_counts(tmp_path: Path) -> None:
    twice = FILE.replace("keys:", "  - {name: gemini-2.5-flash, description: Later, deployments: []}\nkeys:")
    apply(tmp_path, twice)
    model = PublicModel.objects.get()
    assert (model.description, model.aliases, model.deployments.count()) == ("Later", [], 1)


def test_a_keys_lists_are_stored_in_one_spelling_the_second_time_too(tmp_path: Path) -> None:
    loose = FILE.replace('["gemini-*"]', '["models/gemini-*"], networks: ["10.0.0.1"], scopes: [generateContent]')
    apply(tmp_path, loose)
    assert apply(tmp_path, loose)["changes"] == []
    key = VirtualKey.objects.get(name="ci")
    assert (key.allowed_models, key.networks) == (["gemini-*"], ["10.0.0.1/32"])


def test_an_expiry_without_a_time_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="timezone"):
        apply(tmp_path, FILE.replace('["gemini-*"]', '["gemini-*"], expires_at: 2099-01-01T00:00:00'))


def test_a_dry_run_tells_the_difference_and_changes_nothing(tmp_path: Path) -> None:
    said = apply(tmp_path, FILE, "--dry-run")
    assert said["dry_run"] and len(said["changes"]) >= 6
    assert said["keys"] == []
    assert not Organization.objects.exists()


def test_a_change_is_told_with_before_and_after(tmp_path: Path) -> None:
    apply(tmp_path, FILE)
    said = apply(tmp_path, FILE.replace("aliases: [fast]", "aliases: [fast, quick]"))
    assert [(each["type"], each["fields"]) for each in said["changes"]] == [
        ("model", {"aliases": [["fast"], ["fast", "quick"]]})
    ]


def test_extra_headers_are_set_and_their_values_never_told(tmp_path: Path) -> None:
    headers = "options: {}\n    extra_headers: {x-team: hush-1, x-token: hush-2}"
    apply(tmp_path, FILE.replace("options: {}", "options: {}\n    extra_headers: {x-team: hush-1}"))
    said = apply(tmp_path, FILE.replace("options: {}", headers))
    assert Connection.objects.get().extra_headers == {"x-team": "hush-1", "x-token": "hush-2"}
    assert said["changes"][0]["fields"] == {
        "extra_headers": [{"x-team": "•••"}, {"x-team": "•••", "x-token": "••• (new)"}]
    }
    assert "hush" not in json.dumps([said, *AuditEvent.objects.values_list("changes", flat=True)])


def test_a_given_secret_is_taken_and_never_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("GATEHOUSE_TEST_CI_KEY", secret := secrets.make())
    said = apply(tmp_path, FILE.replace("name: ci,", "name: ci, secret: env:GATEHOUSE_TEST_CI_KEY,"))
    assert said["keys"] == []
    assert KeySecret.objects.get().fingerprint == secrets.fingerprint(secret)
    assert secret not in json.dumps(said)


def test_a_limit_that_stays_keeps_its_identity_and_its_counters(tmp_path: Path) -> None:
    apply(tmp_path, FILE)
    before = Limit.objects.get(metric="spend").pk
    apply(tmp_path, FILE.replace('"50.00"', '"75.00"'))
    after = Limit.objects.get(metric="spend")
    assert (after.pk, str(after.amount.normalize())) == (before, "75")


def test_moving_a_connection_elsewhere_takes_its_credential_along_only_when_it_is_given_again(tmp_path: Path) -> None:
    apply(tmp_path, FILE)
    without = FILE.replace("    credential: {api_key: env:GATEHOUSE_TEST_PROVIDER_KEY}\n", "")
    apply(tmp_path, without)
    assert Connection.objects.get().sealed_credential
    apply(tmp_path, without.replace(":9100", ":9200"))
    assert not Connection.objects.get().sealed_credential


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("slug: acme,", "slug: acme, colour: red,", "organizations.0.colour"),
        ("kind: openai", "kind: nobody", "kind 'nobody'"),
        ("options: {}", "options: {shape: round}", "shape"),
        ("{api_key: env:GATEHOUSE_TEST_PROVIDER_KEY}", "{token: x}", "token"),
        ("env:GATEHOUSE_TEST_PROVIDER_KEY", "env:GATEHOUSE_TEST_NOT_SET", "GATEHOUSE_TEST_NOT_SET"),
        ("allow_private: true", "allow_private: false", "openai-main"),
        ("connection: openai-main,", "connection: nowhere,", "nowhere"),
        ("team: search, name: ci", "team: other, name: ci", "other"),
        ("organization: acme,", "organization: nobody,", "nobody"),
        ("amount: 60", "amount: -1", "amount"),
        ("organizations:", "organisations:", "organisations"),
    ],
)
def test_what_is_wrong_is_refused_by_name_and_nothing_is_changed(
    tmp_path: Path, before: str, after: str, named: str
) -> None:
    assert before in FILE
    with pytest.raises(CommandError, match=named):
        apply(tmp_path, FILE.replace(before, after, 1))
    assert not Organization.objects.exists()


def test_what_is_not_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="not YAML"):
        apply(tmp_path, "a: [")
