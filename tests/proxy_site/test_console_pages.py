"""Every page of the console: open to whom it is for, shut to others, and silent about what is foreign."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keys.models import AuditEvent, Limit, VirtualKey
from proxy_site.console.pages import PAGES
from proxy_site.console.samples import PIXEL
from routing.models import Deployment
from tests.factories import make_key, make_limit
from tests.proxy_site.admin_world import World, content_of, make_body, make_record
from usage.models import LimitEvent, SavedView, StoredBody

pytestmark = pytest.mark.django_db

EVERYBODY = {"platform", "owner", "admin", "member", "viewer", "team_admin", "team_member"}
MANAGERS = {"platform", "owner", "admin"}
ADMINS = MANAGERS | {"team_admin"}
OPEN_TO = {
    "explorer": EVERYBODY,
    "explorer_json": EVERYBODY,
    "budgets": EVERYBODY,
    "my_keys": EVERYBODY,
    "key_tester": EVERYBODY,
    "requests_live": EVERYBODY,
    "health": MANAGERS,
    "losses": MANAGERS,
    "audit_log": MANAGERS,
    "simulator": ADMINS,
    "playground": ADMINS,
}


@pytest.fixture
def world(tenants: World, settings: Any) -> World:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    return tenants


def client_of(world: World, role: str) -> Client:
    client = Client()
    client.force_login(world.people[role], backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.mark.parametrize("role", sorted(EVERYBODY))
def test_pages_open_by_role_and_name_nothing_foreign(world: World, role: str) -> None:
    client = client_of(world, role)
    for name, roles in OPEN_TO.items():
        response = client.get(reverse(f"admin:{name}"))
        assert response.status_code == (200 if role in roles else 403), name
        if role != "platform":
            assert "globex" not in response.content.decode(), name


def test_nobody_without_a_role_comes_in(world: World) -> None:
    for client in (Client(), client_of(world, "nobody")):
        for route, _view, name in PAGES:
            if "<" not in route:
                assert client.get(reverse(f"admin:{name}"))["Location"].startswith("/admin/login/"), name


FOREIGN = [
    ("simulator", "key", "keys.virtualkey"),
    ("key_tester", "key", "keys.virtualkey"),
    ("playground_models", "key", "keys.virtualkey"),
    ("losses", "deployment", "routing.deployment"),
    ("losses", "record", "usage.requestrecord"),
    ("losses", "kept", "usage.storedbody"),
]


@pytest.mark.parametrize(("page", "name", "label"), FOREIGN)
def test_a_foreign_id_in_the_address_is_not_there_and_ones_own_is(
    world: World, page: str, name: str, label: str
) -> None:
    client = client_of(world, "owner")
    url = reverse(f"admin:{page}")
    assert client.get(url, {name: str(world.acme.rows[label].pk)}).status_code == 200
    assert client.get(url, {name: str(world.globex.rows[label].pk)}).status_code == 404
    assert client.get(url, {name: str(uuid.uuid4())}).status_code == 404
    assert client.get(url, {name: "nonsense"}).status_code == 404


@pytest.mark.parametrize("name", ["explorer", "explorer_json", "requests_live", "budgets", "audit_log", "health"])
def test_filters_by_foreign_ids_find_nothing(world: World, name: str) -> None:
    foreign = world.globex
    query = {
        "organization": str(foreign.organization.pk),
        "key": str(foreign.rows["keys.virtualkey"].pk),
        "deployment": str(foreign.rows["routing.deployment"].pk),
    }
    response = client_of(world, "owner").get(reverse(f"admin:{name}"), query)
    assert response.status_code == 200
    assert "globex" not in response.content.decode()


STRANGE = [
    "range=nope&metric=%00&group=secret&subgroup=x&step=second&top=-1",
    "range=custom&first=2026-13-45&last=never",
    "range=custom&first=0001-01-01&last=9999-12-31",
    "range=custom&first=2030-01-01&last=2020-01-01",
    "from=yesterday&to=0000&id=x&after=y&before=z&outcome=q&stream=7",
    "from=9999-12-31T23:59:59&to=0001-01-01T00:00:00",
    "key=%F0%9F%92%A9&organization=%27%3B--&first=x&last=%00&q=%00",
    "tokens=99999999999999999999&state=nothing&since=-5&part=",
]


@pytest.mark.parametrize("query", STRANGE)
def test_strange_addresses_are_never_an_error_of_ours(world: World, query: str) -> None:
    client = client_of(world, "platform")
    for route, _view, name in PAGES:
        if "<" not in route and not route.endswith(".csv"):
            response = client.get(f"{reverse(f'admin:{name}')}?{query}")
            assert response.status_code in (200, 302, 404, 405), name
    assert client.get(f"/admin/usage/requestrecord/?{query}").status_code == 200


# The explorer


def test_the_explorer_counts_only_what_is_ones_own(world: World) -> None:
    url = reverse("admin:explorer_json") + "?range=24h&metric=requests&group=organization"
    assert [entry["name"] for entry in client_of(world, "owner").get(url).json()["entries"]] == ["acme organization"]
    told = client_of(world, "platform").get(url).json()
    assert told["total"] == 2
    assert {entry["share"] for entry in told["entries"]} == {0.5}


def test_spend_is_told_as_exact_decimal_dollars(world: World) -> None:
    told = client_of(world, "owner").get(reverse("admin:explorer_json") + "?range=24h").json()
    assert (told["unit"], told["total"]) == ("USD", "0.005000000")


def test_every_figure_of_the_explorer_leads_to_its_requests(world: World) -> None:
    client = client_of(world, "owner")
    page = client.get(reverse("admin:explorer") + "?range=24h&metric=requests")
    (row,) = page.context["rows"]
    behind = client.get(row["link"])
    assert [record.model for record in behind.context["rows"]] == ["acme-model"]
    busy = max(
        range(len(page.context["charts"]["links"])), key=lambda at: page.context["charts"]["explored"][0]["data"][at]
    )
    assert len(client.get(page.context["charts"]["links"][busy]).context["rows"]) == 1
    assert client.get(page.context["charts"]["links"][0]).context["rows"] == []


def test_what_has_no_value_can_be_asked_for(world: World) -> None:
    make_record(
        world.acme, key="acme-key", deployment="", deployment_id="", http_status=403, status="PERMISSION_DENIED"
    )
    client = client_of(world, "owner")
    rows = client.get(reverse("admin:usage_requestrecord_changelist") + "?deployment=-").context["rows"]
    assert [row.http_status for row in rows] == [200, 403] or [row.http_status for row in rows] == [403, 200]
    assert (
        client.get(reverse("admin:explorer") + "?deployment=-&range=24h").context["chips"][0]["text"] == "no deployment"
    )


def test_a_view_is_saved_for_oneself_alone(world: World) -> None:
    client, other = client_of(world, "owner"), client_of(world, "admin")
    saved = client.post(
        reverse("admin:explorer_save"), {"name": "Errors", "query": "metric=errors&group=key&range=30d&x=%3Cscript"}
    )
    assert saved.status_code == 302
    view = SavedView.objects.get()
    assert "metric=errors" in view.query
    assert "script" not in view.query
    assert "Errors" in client.get(reverse("admin:explorer")).content.decode()
    assert ">Errors</a>" not in other.get(reverse("admin:explorer")).content.decode()
    assert other.post(reverse("admin:explorer_delete", args=[view.pk])).status_code == 404
    assert client.post(reverse("admin:explorer_delete", args=[view.pk])).status_code == 302
    assert not SavedView.objects.exists()


# Requests


def test_only_newer_rows_arrive_live(world: World) -> None:
    client, url = client_of(world, "owner"), reverse("admin:requests_live")
    known = world.acme.rows["usage.requestrecord"]
    assert client.get(f"{url}?after={known.pk}").content.strip() == b""
    newer = make_record(world.acme, key="acme-key")
    make_record(world.globex, key="globex-key")
    told = client.get(f"{url}?after={known.pk}").content.decode()
    assert told.count("<tr") == 1
    assert str(newer.pk) in told


def test_a_records_summary_is_there_for_those_who_may_see_it(world: World) -> None:
    url = reverse("admin:request_json")
    for role, tenant, found in (
        ("member", world.acme, True),
        ("owner", world.globex, False),
        ("platform", world.globex, True),
    ):
        record = tenant.rows["usage.requestrecord"]
        assert client_of(world, role).get(url, {"id": str(record.pk)}).json()["found"] is found


def test_a_record_shows_its_cost_class_by_class(world: World) -> None:
    deployment = world.acme.rows["routing.deployment"]
    record = make_record(
        world.acme, key="acme-key", deployment_id=str(deployment.pk), prompt_tokens=1000, cached_tokens=400, output_tokens=10,
        cost_nano=1_020_000, price_version="another table", requested_model="acme'model", stream=True,
    )  # fmt: skip
    page = client_of(world, "owner").get(reverse("admin:usage_requestrecord_change", args=[record.pk]))
    lines = {line.label: (line.tokens, line.nano) for line in page.context["tokens"]}
    assert lines == {"Input": (600, None), "Input from the cache": (400, None), "Output": (10, None)}
    assert "acme%27model" in page.context["curl"]


# Requests and answers that were kept


def body_url(world: World, tenant: str = "acme") -> str:
    return reverse("admin:request_body", args=[getattr(world, tenant).rows["usage.storedbody"].pk])


@pytest.mark.parametrize("role", sorted(EVERYBODY))
def test_what_was_asked_is_read_by_owners_and_admins_and_nobody_else_hears_of_it(world: World, role: str) -> None:
    client, record = client_of(world, role), world.acme.rows["usage.requestrecord"]
    call = client.get(reverse("admin:usage_requestrecord_change", args=[record.pk])).content.decode()
    page = client.get(body_url(world))
    assert (body_url(world) in call) is (role in MANAGERS)
    if role in MANAGERS:
        assert "a question of acme" in page.content.decode()
        assert "no-store" in page["Cache-Control"]
    else:
        assert page.status_code == 404
    assert AuditEvent.objects.filter(action="body.read").exists() is (role in MANAGERS)


def test_every_reading_is_in_the_trail_of_its_organization(world: World) -> None:
    client = client_of(world, "admin")
    for _ in range(2):
        client.get(body_url(world))
    client.get(reverse("admin:losses"), {"kept": str(world.acme.rows["usage.storedbody"].pk)})
    assert client.get(body_url(world, "globex")).status_code == 404
    events = AuditEvent.objects.filter(action="body.read")
    assert {(each.actor, each.target_id, each.organization_id) for each in events} == {
        ("admin@example.org", str(world.acme.rows["usage.storedbody"].pk), str(world.acme.organization.pk))
    }
    assert events.count() == 3
    assert "question" not in str(list(events.values()))
    assert "body.read" in client.get(reverse("admin:audit_log") + "?kind=body").content.decode()


def test_what_was_asked_and_answered_is_inert_on_the_page(world: World) -> None:
    text = "</pre><script>alert(1)</script>{{ 7*7 }}"
    row = make_body(make_record(world.acme), text, answer=f"data: {text}")
    told = client_of(world, "owner").get(reverse("admin:request_body", args=[row.pk])).content.decode()
    assert "<script>alert" not in told
    assert told.count("&lt;/pre&gt;&lt;script&gt;") == 2


def test_what_is_too_old_or_cannot_be_opened_is_not_shown(world: World, settings: Any) -> None:
    client, row = client_of(world, "owner"), world.acme.rows["usage.storedbody"]
    StoredBody.objects.filter(pk=row.pk).update(sealed="v1|gone|x|y")
    for url in (body_url(world), f"{reverse('admin:losses')}?kept={row.pk}"):
        told = client.get(url)
        assert told.status_code == 200
        assert "cannot be opened" in told.content.decode()
    StoredBody.objects.filter(pk=row.pk).update(at=timezone.now() - timedelta(days=8))
    assert client.get(body_url(world)).status_code == 404
    assert (
        body_url(world) not in client.get(reverse("admin:usage_requestrecord_change", args=[row.pk])).content.decode()
    )


def test_no_export_holds_what_was_asked(world: World) -> None:
    client = client_of(world, "owner")
    for name in ("requests_csv", "explorer_csv", "explorer_json", "audit_csv", "requests_live"):
        response = client.get(reverse(f"admin:{name}"))
        assert "a question of" not in content_of(response), name


def test_who_uses_a_key_is_told_that_its_calls_are_kept(world: World) -> None:
    key = world.acme.rows["keys.virtualkey"]
    client, url = client_of(world, "member"), reverse("admin:key_page", args=[key.pk])
    assert "are kept for" not in client.get(url).content.decode()
    VirtualKey.objects.filter(pk=key.pk).update(log_bodies=True)
    assert "are kept for 7 days" in client.get(url).content.decode()


# Health


def test_a_deployment_is_drained_disabled_and_enabled_by_those_who_manage_it(world: World) -> None:
    mine = world.acme.rows["routing.deployment"]
    client = client_of(world, "owner")
    for what, field, value in (
        ("drain", "draining", True), ("undrain", "draining", False), ("disable", "enabled", False), ("enable", "enabled", True),
    ):  # fmt: skip
        assert client.post(reverse("admin:health_switch", args=[mine.pk, what])).status_code == 302
        assert getattr(Deployment.objects.get(pk=mine.pk), field) is value
    assert client.post(reverse("admin:health_switch", args=[mine.pk, "reset"])).status_code == 302
    actions = set(AuditEvent.objects.filter(target_id=str(mine.pk)).values_list("action", flat=True))
    assert actions == {"deployment.changed", "deployment.reset"}
    assert client.post(reverse("admin:health_switch", args=[mine.pk, "explode"])).status_code == 404
    assert client.get(reverse("admin:health_switch", args=[mine.pk, "drain"])).status_code == 405


@pytest.mark.parametrize("role", ["member", "viewer", "team_admin", "owner"])
def test_a_foreign_deployment_cannot_be_switched_nor_ones_own_by_members(world: World, role: str) -> None:
    client = client_of(world, role)
    tenants = (world.globex,) if role == "owner" else (world.globex, world.acme)
    for tenant in tenants:
        row = tenant.rows["routing.deployment"]
        assert client.post(reverse("admin:health_switch", args=[row.pk, "disable"])).status_code == 404
        assert Deployment.objects.get(pk=row.pk).enabled


# Keys


def test_my_keys_are_mine_alone(world: World) -> None:
    make_key(world.acme.organization, "mine-alone", owner=world.people["member"])
    make_key(world.acme.organization, "of-another", owner=world.people["owner"])
    told = client_of(world, "member").get(reverse("admin:my_keys")).content.decode()
    assert "mine-alone" in told
    assert "of-another" not in told


def test_a_key_page_tells_limits_and_errors_with_what_to_do(world: World) -> None:
    key = world.acme.rows["keys.virtualkey"]
    for _ in range(3):
        make_record(
            world.acme, key="acme-key", key_id=str(key.pk), http_status=429, status="RESOURCE_EXHAUSTED",
            error="You exceeded it. [The limit 123 is reached.]",
        )  # fmt: skip
    make_limit(world.acme.organization, "spend", "20")
    page = client_of(world, "member").get(reverse("admin:key_page", args=[key.pk]))
    told = page.content.decode()
    assert {each.words for each in page.context["standings"]} == {"10 requests a minute", "$20.00 a month"}
    assert "(3 times)" in told
    assert "The limit 123" not in told
    assert "wait as long as the answer says" in told


def test_the_first_request_is_seen_when_it_comes(world: World) -> None:
    key = world.acme.rows["keys.virtualkey"]
    client, url = client_of(world, "member"), reverse("admin:key_first", args=[key.pk])
    late = 1000 * int(world.acme.rows["usage.requestrecord"].started_at.timestamp() + 60)  # type: ignore[attr-defined]  # a record
    assert client.get(f"{url}?since={late}").json() == {"received": False}
    told = client.get(f"{url}?since=0").json()
    assert told["received"] and told["ok"]


def test_the_tester_says_which_pattern_decides(world: World) -> None:
    key = make_key(
        world.acme.organization,
        "narrow",
        allowed_models=["acme-*"],
        denied_models=["*-secret"],
        networks=["10.0.0.0/8"],
    ).key
    url = reverse("admin:key_tester")
    page = client_of(world, "owner").get(url, {"key": str(key.pk), "address": "10.1.2.3"})
    assert page.context["usable"]
    (row,) = page.context["rows"]
    assert (row["allowed"], row["verdict"].why) == (True, "Allowed by “acme-*”.")
    outside = client_of(world, "owner").get(url, {"key": str(key.pk), "address": "192.0.2.1", "model": "other-secret"})
    assert not outside.context["usable"]
    assert outside.context["unknown"].why == "Denied by “*-secret”; deny beats allow."


def test_the_simulator_says_policy_first_and_then_who_would_answer(world: World) -> None:
    key = world.acme.rows["keys.virtualkey"]
    page = client_of(world, "owner").get(reverse("admin:simulator"), {"key": str(key.pk), "model": "acme-model"})
    decision = page.context["decision"]
    assert not decision.refused
    assert [row.order for row, _state, _colour in decision.rows] == [1]
    missing = client_of(world, "owner").get(reverse("admin:simulator"), {"key": str(key.pk), "model": "globex-model"})
    assert missing.context["decision"].refused


# Losses


def test_the_preview_shows_the_translators_own_losses(world: World) -> None:
    deployment = world.acme.rows["routing.deployment"]
    url = f"{reverse('admin:losses')}?deployment={deployment.pk}"
    body = '{"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": {"topK": 4}}'
    client = client_of(world, "owner")
    (verdict,) = client.post(url, {"request": body}).context["verdicts"]
    assert verdict.dropped == ("generationConfig.topK",)
    assert '"messages"' in verdict.letter
    (strict,) = client.post(url, {"request": body, "strict": "on"}).context["verdicts"]
    assert "topK" in strict.refused
    assert "JSON" in client.post(url, {"request": "{"}).context["problem"]
    assert client.post(url, {"request": "[" * 5000}).status_code == 200


def test_the_preview_starts_from_ready_requests_by_links(world: World) -> None:
    client, url = client_of(world, "owner"), reverse("admin:losses")
    page = client.get(url)
    for sample in page.context["samples"]:
        assert f'href="?sample={sample.name}"' in page.content.decode()
        shown = client.get(url, {"sample": sample.name})
        assert "problem" not in shown.context, sample.name
        assert shown.context["verdicts"], sample.name
    deployment = str(world.acme.rows["routing.deployment"].pk)
    narrowed = client.get(url, {"sample": "knobs", "deployment": deployment})
    assert f"?sample=tools&amp;deployment={deployment}" in narrowed.content.decode()
    assert narrowed.context["verdicts"][0].dropped


def test_the_preview_starts_from_what_was_really_asked_where_that_is_kept(world: World) -> None:
    client, url = client_of(world, "owner"), reverse("admin:losses")
    row = world.acme.rows["usage.storedbody"]
    assert [each.id for each in client.get(url).context["latest"]] == [str(row.pk)]
    page = client.get(url, {"kept": str(row.pk)})
    assert "a question of acme" in page.context["text"]
    assert "a question of acme" in page.context["verdicts"][0].letter
    assert f"?kept={row.pk}" in client.get(url, {"record": str(row.pk)}).content.decode()
    edited = client.post(f"{url}?kept={row.pk}", {"request": '{"contents": [{"parts": [{"text": "mine"}]}]}'})
    assert "mine" in edited.context["verdicts"][0].letter
    assert client.post(f"{url}?kept={world.globex.rows['usage.storedbody'].pk}", {"request": "{}"}).status_code == 404


def test_a_kept_request_with_a_picture_can_be_previewed_without_it(world: World) -> None:
    data = "iVBORw0KGgo" * 400
    picture = f'"}}, {{"inlineData": {{"mimeType": "image/png", "data": "{data}"}}}}, {{"text": "'
    row = make_body(make_record(world.acme), picture)
    page = client_of(world, "owner").get(reverse("admin:losses"), {"kept": str(row.pk)})
    assert "problem" not in page.context
    assert PIXEL in page.context["text"]
    assert "image_url" in page.context["verdicts"][0].letter


# Budgets


def test_budgets_show_what_each_person_may_see(world: World) -> None:
    make_limit(world.acme.team, "concurrent", 3)
    make_limit(world.globex.organization, "spend", 5)
    limit = Limit.objects.filter(key=world.acme.rows["keys.virtualkey"]).get()
    LimitEvent.objects.create(
        limit_id=str(limit.pk), organization_id=str(world.acme.organization.pk), period_key="x", threshold=80, used=8, amount=10,
        at=limit.created_at,
    )  # fmt: skip
    page = client_of(world, "owner").get(reverse("admin:budgets"))
    assert {each.words for each in page.context["shown"]} == {"10 requests a minute", "3 calls at once"}
    assert [each["words"] for each in page.context["events"]] == ["10 requests a minute"]
    assert client_of(world, "member").get(reverse("admin:budgets")).context["events"] == []
    assert len(client_of(world, "platform").get(reverse("admin:budgets")).context["shown"]) == 4
    assert client_of(world, "owner").get(reverse("admin:budgets") + "?state=reached").context["shown"] == []


# The audit log


def test_the_audit_log_shows_differences_and_verifies(world: World) -> None:
    deployment = world.acme.rows["routing.deployment"]
    client = client_of(world, "owner")
    client.post(reverse("admin:health_switch", args=[deployment.pk, "drain"]))
    told = client.get(reverse("admin:audit_log") + "?kind=deployment").content.decode()
    assert "<del>false</del>" in told
    assert "<ins>true</ins>" in told
    assert client.post(reverse("admin:audit_verify")).status_code == 403
    whole = client_of(world, "platform").post(reverse("admin:audit_verify"), follow=True)
    assert "The chain is whole" in whole.content.decode()
    AuditEvent.objects.filter(action="deployment.changed").update(actor="somebody else")
    broken = client_of(world, "platform").post(reverse("admin:audit_verify"), follow=True)
    assert "The chain breaks" in broken.content.decode()


# The playground


def test_the_playground_speaks_for_keys_one_administers_only(world: World) -> None:
    for role, tenant in (("owner", world.globex), ("member", world.acme), ("viewer", world.acme)):
        body = {"key": str(tenant.rows["keys.virtualkey"].pk), "model": "m", "body": {}}
        response = client_of(world, role).post(reverse("admin:playground_send"), body, content_type="application/json")
        assert response.status_code == 404, role
    empty = client_of(world, "owner").post(reverse("admin:playground_send"), "[]", content_type="application/json")
    assert empty.status_code == 400
