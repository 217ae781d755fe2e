"""What strangers write (names, models, errors, headers) is inert on every page, and never a formula in a CSV file."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keys import audit
from lib.ids import uuid7
from proxy_site.console.exports import cell
from tests.factories import make_connection, make_key, make_model
from tests.proxy_site.admin_world import World, content_of, make_bucket, make_record
from usage.models import LimitEvent, RequestRecord

pytestmark = pytest.mark.django_db

# Each that makes an element or an attribute marks it with `xss`.
PAYLOADS = (
    "<script xss>alert(1)</script>", "<ScRiPt xss>alert(1)</sCrIpT>", "</script><script xss>alert(1)</script>",
    "<!--</script><script xss>alert(1)//-->", "<script xss src=//evil.example/x.js></script>", "<img src=x onerror=alert(1) xss>",
    "<img src=x onerror=alert(1) xss//", "<svg onload=alert(1) xss>", "<svg/onload=alert(1)/xss>", "<svg><script xss>alert(1)</script></svg>",
    "<body onload=alert(1) xss>", "<iframe src=javascript:alert(1) xss>", "<iframe srcdoc='<script>alert(1)</script>' xss>",
    "<object data=javascript:alert(1) xss>", "<embed src=javascript:alert(1) xss>", "<a href=javascript:alert(1) xss>a</a>",
    "<a href='java\tscript:alert(1)' xss>a</a>", "<form action=javascript:alert(1) xss><input type=submit>", "<button formaction=javascript:alert(1) xss>",
    "<input autofocus onfocus=alert(1) xss>", "<details open ontoggle=alert(1) xss>", "<video><source onerror=alert(1) xss>",
    "<audio src=x onerror=alert(1) xss>", "<marquee onstart=alert(1) xss>", "<math><mi xlink:href=javascript:alert(1) xss>",
    "<style xss>@import 'javascript:alert(1)'</style>", "<link rel=stylesheet href=//evil.example xss>", "<meta http-equiv=refresh content=0;url=//evil.example xss>",
    "<base href=//evil.example/ xss>", "<template xss><script>alert(1)</script></template>", "<x-data xss x-init='alert(1)'>",
    '" onmouseover=alert(1) xss="', "' onmouseover=alert(1) xss='", '"><img src=x onerror=alert(1) xss>', "'><img src=x onerror=alert(1) xss>",
    '"/><script xss>alert(1)</script>', "` onmouseover=alert(1) xss=`", '" x-init="alert(1)" xss="', '" style="x:expression(alert(1))" xss="',
    "</textarea><script xss>alert(1)</script>", "</title><script xss>alert(1)</script>", "</option></select><img src=x onerror=alert(1) xss>",
    "</td></tr></table><img src=x onerror=alert(1) xss>", "javascript:alert(1)//xss", "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)}", "{% debug %}{{ settings.SECRET_KEY }}", "&lt;script xss&gt;alert(1)&lt;/script&gt;", "\u003cscript xss\u003ealert(1)",
    "<\u017fcript xss>alert(1)</\u017fcript>",
)  # fmt: skip
assert len(PAYLOADS) == 50
FORMULAS = (
    "=1+1",
    "+1",
    "-1+2",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    '=HYPERLINK("http://evil")',
    " =1",
    "|calc",
    "%0A=1",
    "\ufeff=1",
)


class Reader(HTMLParser):
    """Finds what a payload would have become, had a page let it."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if any(name.strip("/") == "xss" for name in given):
            self.wrong.append(f"<{tag} {given}>")
        if any(
            name.startswith("on") or name in ("x-init", "srcdoc") for name, value in given.items() if "alert(" in value
        ):
            self.wrong.append(f"<{tag} {given}>")
        if tag == "script" and "src" not in given and given.get("type") != "application/json" and "alert" in str(given):
            self.wrong.append(f"<{tag} {given}>")
        for name in ("href", "src", "action", "formaction", "data"):
            if given.get(name, "").strip().lower().startswith(("javascript:", "//evil")):
                self.wrong.append(f"<{tag} {given}>")


@pytest.fixture
def world(tenants: World, settings: Any) -> World:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    return tenants


@pytest.fixture
def client(world: World) -> Client:
    client = Client()
    client.force_login(world.people["platform"], backend="django.contrib.auth.backends.ModelBackend")
    return client


def written_everywhere(world: World) -> None:
    """Every payload in every place where a stranger's words are kept."""
    acme = world.acme
    key = acme.rows["keys.virtualkey"]
    connection = make_connection("openai", base_url="http://127.0.0.1:9/v1", organization=acme.organization)
    for at, text in enumerate(PAYLOADS):
        words = dict.fromkeys(("key", "model", "deployment", "backend", "owner", "label"), text)
        words["backend"] = text[:40]
        shown = {**words, "team": text, "organization": text}
        attempt = {"deployment": text, "reason": text, "outcome": text, "error": text, "offset_ms": 0, "duration_ms": 1}
        make_record(
            acme, **shown, key_id=str(key.pk), http_status=500, status="INTERNAL", error=text, client=text, requested_model=text, address="::1",
            finish_reason=text[:40], price_version=text[:80], tags=[text], flags=[text], dropped=[text], attempts=[attempt], prompt_tokens=5,
        )  # fmt: skip
        make_bucket(
            acme, **{**shown, "key": text, "key_id": str(key.pk) if at else f"k{at}", "deployment_id": f"d{at}"}
        )
        make_model(
            f"{text}", [connection], organization=acme.organization, aliases=[f"{at}{text}"], upstream_model=text
        )
        make_key(acme.organization, text.replace("\t", " "), owner=world.people["platform"], allowed_models=[text])
        audit.record(
            audit.Actor(name=text, source="admin", address="::1"), "key.changed", key, {text: [text, text], "x": text}
        )
        LimitEvent.objects.create(
            id=uuid7(), limit_id=str(uuid7()), organization_id=str(acme.organization.pk), period_key=text[:40], threshold=80, used=1,
            amount=1, at=timezone.now(), error=text,
        )  # fmt: skip


def test_no_page_lets_a_strangers_words_act(world: World, client: Client) -> None:
    written_everywhere(world)
    key = world.acme.rows["keys.virtualkey"]
    dressed = world.acme.organization.keys.filter(name__startswith="<script").first()
    calls = RequestRecord.objects.filter(error__in=PAYLOADS)
    assert len(calls) == len(PAYLOADS)
    for text in ('"><script xss>alert(1)</script>', "javascript:alert(1)", "' onfocus=alert(1) xss='"):
        for name in ("simulator", "key_tester", "losses", "explorer", "audit_log", "health", "budgets", "playground"):
            query = {
                "model": text,
                "q": text,
                "label": text,
                "address": text,
                "first": text,
                "sample": text,
                "state": text,
                "tokens": text,
            }
            assert wrong(client, reverse(f"admin:{name}"), query) == [], name
    pages = [
        *[
            reverse(f"admin:{name}")
            for name in ("explorer", "budgets", "health", "losses", "audit_log", "my_keys", "simulator", "playground")
        ],
        reverse("admin:usage_requestrecord_changelist"),
        reverse("admin:requests_live"),
        reverse("admin:index"),
        reverse("admin:key_page", args=[key.pk]),
        reverse("admin:key_page", args=[dressed.pk]),
        reverse("admin:key_secret", args=[dressed.pk]),
        f"{reverse('admin:key_tester')}?key={dressed.pk}",
        f"{reverse('admin:simulator')}?key={dressed.pk}&model=x",
        *[
            f"{reverse('admin:explorer')}?range=24h&top=50&group={by}&subgroup=label"
            for by in ("model", "key", "deployment", "team", "owner")
        ],
        *[reverse("admin:usage_requestrecord_change", args=[call.pk]) for call in calls],
    ]
    found = {page: wrong(client, page) for page in pages}
    assert {page: said for page, said in found.items() if said} == {}


def test_a_pasted_request_is_shown_as_it_is_and_does_nothing(world: World, client: Client) -> None:
    for text in PAYLOADS:
        reader = Reader()
        reader.feed(client.post(reverse("admin:losses"), {"request": text}).content.decode())
        assert reader.wrong == []


def wrong(client: Client, page: str, query: dict[str, str] | None = None) -> list[str]:
    response = client.get(page, query)
    assert response.status_code == 200, page
    reader = Reader()
    reader.feed(response.content.decode())
    return reader.wrong


@pytest.mark.parametrize(
    "page",
    [
        "<script xss>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<p title='' onmouseover=alert(1) >",
        "<a href=' JavaScript:alert(1)'>a</a>",
        "<iframe srcdoc='alert(1)'>",
        "<div x-init='alert(1)'>",
        "<svg/onload=alert(1)/xss>",
    ],
)
def test_the_reader_would_see_it(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.wrong


# CSV


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_would_execute_is_defused(text: str) -> None:
    assert str(cell(text)).startswith("'")


def test_figures_and_harmless_texts_stay_as_they_are() -> None:
    assert [cell(value) for value in (-5, "gpt-4o", "a=b", None, True, 1.5, ["a", "b"])] == [
        -5,
        "gpt-4o",
        "a=b",
        "",
        "yes",
        "1.5",
        "a, b",
    ]


def downloaded(client: Client, url: str) -> list[list[str]]:
    response = client.get(url)
    assert response["Content-Type"].startswith("text/csv")
    assert "attachment" in response["Content-Disposition"]
    return list(csv.reader(StringIO(content_of(response), newline="")))


def test_exports_hold_what_is_filtered_and_no_formula(world: World, client: Client) -> None:
    for text in FORMULAS:
        make_record(world.acme, key=text, model=text, error=text, client=text, tags=[text], cost_nano=1_500_000_001)
        make_bucket(world.acme, key=text, key_id=text[:40], model=text, label=text)
        audit.record(
            audit.Actor(name=text, source="admin"),
            "key.changed",
            world.acme.rows["keys.virtualkey"],
            {"name": ["", text]},
        )
    for url in (
        reverse("admin:requests_csv") + "?range=1h",
        reverse("admin:explorer_csv") + "?range=24h&group=key&subgroup=label",
        reverse("admin:audit_csv"),
    ):
        head, *rows = downloaded(client, url)
        assert len(rows) >= len(FORMULAS)
        for row in rows:
            assert len(row) == len(head)
            assert not [
                value
                for value in row
                if value.lstrip(" \ufeff")[:1] in ("=", "+", "-", "@", "|", "%", "\t", "\r", "\n")
            ]
    head, *rows = downloaded(client, reverse("admin:requests_csv") + "?range=1h&status=OK")
    assert rows[0][head.index("cost_usd")] == "1.500000001"
    assert rows[0][head.index("started_at")].endswith("Z")
    assert [
        row[head.index("key")] for row in downloaded(client, reverse("admin:requests_csv") + "?key=nobody")[1:]
    ] == []


def test_an_export_holds_nothing_foreign(world: World) -> None:
    client = Client()
    client.force_login(world.people["owner"], backend="django.contrib.auth.backends.ModelBackend")
    for name in ("requests_csv", "explorer_csv", "audit_csv"):
        _head, *rows = downloaded(client, reverse(f"admin:{name}"))
        assert rows
        assert "globex" not in str(rows)
