"""The overview, and what else leads from figures to requests: by what spend is split, budgets that are nearly used, errors with their words; figures lead on."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from proxy_site.console import overview
from tests.factories import make_limit
from tests.proxy_site.admin_world import World, make_bucket, make_record
from usage import breakdown
from usage.models import LimitEvent

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(tenants: World, settings: Any) -> World:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    return tenants


def client_of(world: World, role: str) -> Client:
    client = Client()
    client.force_login(world.people[role], backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", {"acme-model", "globex-model"}),
        ("split=team", {"acme team", "globex team"}),
        ("split=nonsense", {"acme-model", "globex-model"}),
        ("range=mtd", {"acme-model", "globex-model"}),
    ],
)
def test_spend_is_split_by_what_the_address_says(world: World, query: str, names: set[str]) -> None:
    page = client_of(world, "platform").get(f"/admin/?{query}")
    assert {line["label"] for line in page.context["charts"]["spend"]} == names


def test_a_filter_narrows_every_figure_and_stays_in_every_link(world: World) -> None:
    page = client_of(world, "platform").get(f"/admin/?range=24h&team={world.acme.team.pk}")
    assert page.context["cards"][1]["figure"] == "1"
    assert all(f"team={world.acme.team.pk}" in query for _name, _label, query in page.context["ranges"])
    assert f"team={world.acme.team.pk}" in page.context["cards"][0]["link"]


def test_bars_begin_with_a_whole_step_and_lead_to_its_requests(world: World) -> None:
    page = client_of(world, "owner").get("/admin/?range=7d")
    charts = page.context["charts"]
    assert len(charts["labels"]) == len(charts["links"]) == 7
    assert "from=" in charts["links"][0]


def test_a_budget_that_is_nearly_used_is_shown_to_its_people_alone(world: World) -> None:
    limit = make_limit(world.acme.organization, "spend", 0, period="month")  # of nothing, all is used
    make_limit(world.acme.team, "spend", 50, period="month")
    event = LimitEvent.objects.create(
        organization_id=str(world.acme.organization.pk), limit_id=str(limit.pk), period_key="x", threshold=100, used=0, amount=0,
        at=limit.created_at,
    )  # fmt: skip
    for role, shown in (("owner", ["acme organization"]), ("platform", ["acme organization"]), ("member", [])):
        assert [each.subject for each in client_of(world, role).get("/admin/").context["budgets"]] == shown
    event.organization_id = str(world.globex.organization.pk)
    event.save()
    assert client_of(world, "owner").get("/admin/").context["budgets"] == []


def test_an_error_is_told_with_the_words_of_its_latest_call(world: World) -> None:
    make_record(
        world.acme,
        http_status=503,
        status="UNAVAILABLE",
        error="The model is overloaded. [upstream 503]",
        deployment_id="d",
    )
    make_record(world.globex, http_status=503, status="UNAVAILABLE", error="Not for acme.", deployment_id="g")
    make_bucket(world.acme, status="UNAVAILABLE", deployment_id="d", key="of the ages", key_id="other")
    page = client_of(world, "owner").get("/admin/")
    assert [each["words"] for each in page.context["errors"]] == ["The model is overloaded."]
    assert b"Not for acme" not in page.content
    assert b"<h2>Deployments" in page.content
    assert b"<h2>Deployments" not in client_of(world, "viewer").get("/admin/").content


def test_growth_is_told_against_a_named_period() -> None:
    assert set(overview.BEFORE) <= {"1h", "24h", "7d", "30d"}


def test_a_range_without_a_call_says_so_instead_of_drawing_empty_charts(world: World) -> None:
    shown = client_of(world, "owner").get("/admin/").content
    assert b"data-chart" in shown
    assert b"No call in this range" not in shown
    empty = client_of(world, "owner").get("/admin/?range=custom&first=2020-01-01&last=2020-01-02").content
    assert b"data-chart" not in empty
    assert b"No call in this range" in empty


# Of keys


def test_a_new_key_asks_for_three_things_and_folds_the_rest_away(world: World) -> None:
    content = client_of(world, "owner").get(reverse("admin:keys_virtualkey_add")).content.decode()
    open_part = re.sub(r"<details.*?</details>", "", content, flags=re.DOTALL)
    fields = set(re.findall(r'<(?:input|select|textarea)[^>]* id="id_(\w+)"', open_part))
    assert fields - {"limits_TOTAL_FORMS", "limits_INITIAL_FORMS"} == {"name", "belongs_to", "preset"}
    assert 'name="access"' in content


def test_the_list_of_keys_leads_to_their_pages(world: World) -> None:
    key = world.acme.rows["keys.virtualkey"]
    content = client_of(world, "owner").get(reverse("admin:keys_virtualkey_changelist")).content.decode()
    assert reverse("admin:key_page", args=[key.pk]) in content


def test_a_key_s_page_says_what_it_may_do_and_who_changed_it(world: World) -> None:
    key: Any = world.acme.rows["keys.virtualkey"]
    key.allowed_models, key.scopes = ["acme-*"], ["countTokens"]
    key.save()
    page = client_of(world, "owner").get(reverse("admin:key_page", args=[key.pk]))
    rules = {label: (words, things) for label, words, things in page.context["rules"]}
    assert rules["Models"] == ("1 of 1 models", ["acme-*"])
    assert rules["Actions"] == ("", ["countTokens"])
    assert "Revoke" in page.content.decode()
    seen = client_of(world, "viewer").get(reverse("admin:key_page", args=[key.pk]))
    assert "Revoke" not in seen.content.decode()
    assert seen.context["trail"] == []


def test_before_a_rotation_one_reads_when_the_secret_was_used_last(world: World) -> None:
    key: Any = world.acme.rows["keys.virtualkey"]
    page = client_of(world, "owner").get(reverse("admin:keys_virtualkey_rotate", args=[key.pk]))
    assert f"{key.secrets.get().hint} was last used never" in page.content.decode()


# Of deployments


def test_a_deployment_s_last_day_is_told_hour_by_hour(world: World) -> None:
    deployment = world.acme.rows["routing.deployment"]
    make_bucket(world.acme, deployment_id=str(deployment.pk), status="UNAVAILABLE", requests=4)
    make_bucket(world.globex, deployment_id=str(world.globex.rows["routing.deployment"].pk), requests=9)
    page = client_of(world, "owner").get(reverse("admin:health"))
    (shown,) = page.context["shown"]
    assert [block["colour"] for block in shown.blocks] == [""] * 23 + ["gh-failed"]
    assert "4 calls, 4 failed" in shown.blocks[-1]["words"]
    assert f"deployment={deployment.pk}" in shown.blocks[-1]["link"]


# Of one request


def test_the_cost_of_a_request_is_shown_by_class_and_its_key_leads_on(world: World) -> None:
    key: Any = world.acme.rows["keys.virtualkey"]
    bar = breakdown.parts([breakdown.Line("Input", 10, None, 30), breakdown.Line("Output", 5, None, 90)])
    assert [(part.label, part.width) for part in bar] == [("Input", 25.0), ("Output", 75.0)]
    assert breakdown.parts([breakdown.Line("Input", 10, None, 30), breakdown.Line("Output", 0, None, None)]) == []
    record = make_record(world.acme, key="acme-key", key_id=str(key.pk))
    page = client_of(world, "owner").get(reverse("admin:usage_requestrecord_change", args=[record.pk]))
    assert page.context["key_page"] == reverse("admin:key_page", args=[key.pk])
    gone = make_record(world.acme, key="gone", key_id="no id at all")
    page = client_of(world, "owner").get(reverse("admin:usage_requestrecord_change", args=[gone.pk]))
    assert page.context["key_page"] == ""
