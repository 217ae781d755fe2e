"""Which pages `bench.size` asks: all of the admin's URL table, and the heavy ones in many states."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.urls import URLPattern, URLResolver, reverse
from django.utils import timezone

from keys.models import AuditEvent, Invitation, Membership, Organization, Team, User, VirtualKey
from routing.models import Connection, Deployment, PublicModel
from usage.models import PriceOverride, RequestRecord

PAGE_MS, DATA_MS = 500, 200
PEOPLE = {"superuser": "size-root@example.org", "admin": "size-admin@example.org"}
# They leave the session, change something, need a provider, or stream: not what one waits for.
LEFT_OUT = (
    "logout", "login", "sign_out_everywhere", "_test", "_save", "_delete", "_switch", "_verify", "_send", "_csv", "view_on_site",
    "_history", "key_secret", "jsi18n", "_password_change", "app_list",
)  # fmt: skip
FIRST_ROWS: dict[str, type[Any]] = {
    "keys.organization": Organization, "keys.team": Team, "keys.membership": Membership, "keys.user": User,
    "keys.invitation": Invitation, "keys.virtualkey": VirtualKey, "keys.auditevent": AuditEvent,
    "routing.connection": Connection, "routing.publicmodel": PublicModel, "routing.deployment": Deployment,
    "usage.requestrecord": RequestRecord, "usage.priceoverride": PriceOverride,
}  # fmt: skip


def sessions() -> dict[str, str]:
    """Who: their cookie, signed in."""
    found = {}
    for who, email in PEOPLE.items():
        user = User.objects.get(email=email)
        store = SessionStore()
        store[SESSION_KEY], store[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
        store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        store.create()
        found[who] = f"{settings.SESSION_COOKIE_NAME}={store.session_key}"
    return found


def pages(who: str) -> Iterator[tuple[str, int]]:
    """(address, milliseconds to meet)."""
    seen: set[str] = set()
    for path in (*_table(), *_states()):
        if path not in seen:
            seen.add(path)
            yield path, DATA_MS if ".json" in path or "/live/" in path or "part=1" in path else PAGE_MS


def _table() -> Iterator[str]:
    """The URL table: lists as they are, pages about a row with one of the first organization's."""
    first = Organization.objects.get(slug="size-0")
    for route, pattern in _patterns(admin.site.get_urls()):
        name = pattern.name or ""
        if not name or any(name.endswith(each) or name == each for each in LEFT_OUT):
            continue
        keyword = next(iter(pattern.pattern.converters), None)
        if keyword is None:
            yield reverse(f"admin:{name}")
        elif keyword.endswith("_id"):
            model = FIRST_ROWS.get(".".join(route.split("/")[:2]))
            if model is not None and (row := _row(model, first)) is not None:
                yield reverse(f"admin:{name}", kwargs={keyword: row.pk})


def _patterns(entries: list[Any], prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for entry in entries:
        if isinstance(entry, URLResolver):
            yield from _patterns(entry.url_patterns, prefix + str(entry.pattern))
        else:
            yield prefix + str(entry.pattern), entry


def _row(model: type[Any], first: Organization) -> Any:
    rows = model._default_manager.all()
    for path in ("organization", "organization_id"):
        if any(field.attname == path or field.name == path for field in model._meta.fields):
            mine = rows.filter(**{path: str(first.pk) if path == "organization_id" else first})
            return mine.order_by("-pk").first() or rows.first()
    return rows.order_by("-pk").first()


def _states() -> Iterator[str]:
    """The pages that read the history, in the states people put them in."""
    key = VirtualKey.objects.get(name="key-0")
    quiet = VirtualKey.objects.get(name="key-195")
    first = key.organization
    deployment = Deployment.objects.filter(model__name="model-0").first()
    assert deployment is not None
    today = timezone.now().date()
    long = {"range": "custom", "first": str(today - timedelta(days=399)), "last": str(today)}
    for span in ("1h", "24h", "7d", "30d"):
        yield "/admin/?range=" + span
    asked = [
        *({"range": span} for span in ("1h", "24h", "7d", "30d", "90d", "mtd")),
        *({"range": span, "metric": "requests", "group": "status"} for span in ("24h", "30d", "90d")),
        *({"range": span, "metric": "p95_ms", "group": "deployment"} for span in ("24h", "30d", "90d")),
        {"range": "30d", "metric": "p99_ttft_ms", "group": "key", "top": "50"},
        {"range": "7d", "group": "key", "subgroup": "model", "step": "hour"},
        {"range": "30d", "group": "label", "metric": "requests"},
        {"range": "90d", "group": "team", "subgroup": "model", "metric": "input_tokens"},
        {"range": "90d", "key": str(key.pk), "group": "model", "metric": "p95_ms"},
        long,
        {**long, "step": "day"},
        {**long, "step": "day", "group": "key", "top": "50"},
        {**long, "metric": "p95_ms", "step": "day"},
        {**long, "metric": "p95_ttft_ms", "group": "organization"},
        {**long, "metric": "errors", "group": "deployment", "subgroup": "status"},
        {**long, "metric": "requests", "group": "label", "step": "day"},
        {**long, "key": str(key.pk), "metric": "average_ms", "step": "day"},
    ]
    for each in asked:
        yield f"/admin/usage/explorer/?{urlencode(each)}"
        yield f"/admin/usage/explorer.json?{urlencode(each)}"
    ago = timezone.now() - timedelta(days=300)
    window = {"from": ago.isoformat(), "to": (ago + timedelta(days=2)).isoformat()}
    old = {"from": (timezone.now() - timedelta(days=400)).isoformat()}
    middle = (
        RequestRecord.objects.filter(started_at__gte=ago, pk__gt=_id_at(ago))
        .order_by("pk")
        .values_list("pk", flat=True)[0]
    )
    requests = [
        *({"range": span} for span in ("1h", "24h", "7d", "30d")),
        {"range": "30d", "key": str(key.pk)},
        {"range": "30d", "key": str(quiet.pk)},
        {"range": "30d", "key": str(quiet.pk), "outcome": "server"},
        {"range": "30d", "organization": str(first.pk), "outcome": "server"},
        {"range": "30d", "model": "model-3"},
        {"range": "30d", "deployment": str(deployment.pk), "status": "DEADLINE_EXCEEDED"},
        {"range": "30d", "label": "user-3"},
        {"range": "30d", "status": "NO_SUCH_STATUS"},
        {"range": "30d", "model": "no-such-model", "outcome": "client"},
        {"range": "30d", "owner": "size-admin@example.org", "outcome": "cancelled", "stream": "no"},
        window,
        {**window, "outcome": "limited"},
        old,
        {**old, "before": str(middle)},
        {**old, "after": str(middle)},
        {**old, "key": str(quiet.pk), "outcome": "server"},
        {**old, "model": "no-such-model"},
        {"id": str(middle)},
    ]
    for each in requests:
        yield f"/admin/usage/requestrecord/?{urlencode(each)}"
    newest = RequestRecord.objects.order_by("-pk").values_list("pk", flat=True)[0]
    yield f"/admin/usage/requests/live/?after={newest}"
    yield f"/admin/usage/requests/live/?range=30d&model=no-such-model&after={newest}"
    yield f"/admin/usage/request.json?id={middle}"
    yield reverse("admin:usage_requestrecord_change", args=[middle])
    for each_key in (key, quiet):
        yield reverse("admin:key_page", args=[each_key.pk])
        yield f"{reverse('admin:key_first', args=[each_key.pk])}?since=0"
    for query in ("q=key-7", "kind=key", "kind=connection", "source=api", f"organization={first.pk}&q=nothing-like-it"):
        yield f"/admin/audit/?{query}"
    yield "/admin/keys/virtualkey/?q=key-1"
    yield "/admin/keys/virtualkey/?state=active&p=2"
    yield "/admin/health/?part=1"
    yield "/admin/budgets/?part=1"


def _id_at(moment: Any) -> str:
    from usage.partitions import bound

    return bound(moment)
