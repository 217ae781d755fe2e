"""UNFOLD: name, colours and sidebar of the admin. A section shows what the person's role lets them see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def sees(label: str) -> Callable[[HttpRequest], bool]:
    """Whether the person of this request may open the list of this model."""

    def check(request: HttpRequest) -> bool:
        from django.apps import apps  # noqa: PLC0415 - settings import this file before there are apps

        from keys.principal import principal_of  # noqa: PLC0415 - as above

        return principal_of(request).may("view", apps.get_model(label))

    return check


def item(title: str, icon: str, url: str, label: str = "") -> dict[str, Any]:
    entry: dict[str, Any] = {"title": title, "icon": icon, "link": reverse_lazy(url)}
    if label:
        entry["permission"] = sees(label)
    return entry


def administers(request: HttpRequest) -> bool:
    """Whether there is a key this person is an admin over."""
    from keys.principal import ADMIN, principal_of  # noqa: PLC0415 - settings import this file before there are apps

    principal = principal_of(request)
    return principal.is_platform_admin or bool(principal.organizations_with(ADMIN) or principal.teams_with(ADMIN))


def is_overview(request: HttpRequest) -> bool:
    return request.path == str(reverse_lazy("admin:index"))


NAVIGATION: list[dict[str, Any]] = [
    {
        "items": [
            {**item("Overview", "space_dashboard", "admin:index"), "active": is_overview},
            item("Requests", "receipt_long", "admin:usage_requestrecord_changelist", "usage.requestrecord"),
            item("Usage", "query_stats", "admin:explorer", "usage.usagebucket"),
            item("Budgets", "savings", "admin:budgets", "keys.limit"),
            item("Health", "vital_signs", "admin:health", "routing.deployment"),
            item("Audit log", "history_edu", "admin:audit_log", "keys.auditevent"),
        ],
    },
    {
        "title": "Access",
        "items": [
            item("My keys", "vpn_key", "admin:my_keys"),
            item("Virtual keys", "key", "admin:keys_virtualkey_changelist", "keys.virtualkey"),
            item("Organizations", "apartment", "admin:keys_organization_changelist", "keys.organization"),
            item("Teams", "groups", "admin:keys_team_changelist", "keys.team"),
            item("Members", "badge", "admin:keys_membership_changelist", "keys.membership"),
            item("Invitations", "forward_to_inbox", "admin:keys_invitation_changelist", "keys.invitation"),
            item("People", "person", "admin:keys_user_changelist", "keys.user"),
        ],
    },
    {
        "title": "Models",
        "items": [
            item("Models", "deployed_code", "admin:routing_publicmodel_changelist", "routing.publicmodel"),
            item("Deployments", "lan", "admin:routing_deployment_changelist", "routing.deployment"),
            item("Connections", "power", "admin:routing_connection_changelist", "routing.connection"),
            item("Prices", "sell", "admin:usage_priceoverride_changelist", "usage.priceoverride"),
        ],
    },
    {
        "title": "Tools",
        "items": [
            {**item("Playground", "chat", "admin:playground"), "permission": administers},
            item("Key tester", "rule", "admin:key_tester", "keys.virtualkey"),
            {**item("Routing simulator", "alt_route", "admin:simulator"), "permission": administers},
            item("Loss preview", "filter_alt", "admin:losses", "routing.deployment"),
        ],
    },
]

INDIGO = {
    "50": "oklch(96.2% .018 272.314)",
    "100": "oklch(93% .034 272.788)",
    "200": "oklch(87% .065 274.039)",
    "300": "oklch(78.5% .115 274.713)",
    "400": "oklch(67.3% .182 276.935)",
    "500": "oklch(58.5% .233 277.117)",
    "600": "oklch(51.1% .262 276.966)",
    "700": "oklch(45.7% .24 277.023)",
    "800": "oklch(39.8% .195 277.366)",
    "900": "oklch(35.9% .144 278.697)",
    "950": "oklch(25.7% .09 281.288)",
}


def favicon(request: HttpRequest) -> str:
    return static("gatehouse/favicon.svg")


def stylesheet(request: HttpRequest) -> str:
    return static("gatehouse/gatehouse.css")


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Gatehouse",
    "SITE_HEADER": "Gatehouse",
    "SITE_URL": None,
    "SITE_SYMBOL": "vpn_key",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": favicon}],
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": [stylesheet],
    "COLORS": {"primary": INDIGO},
    "SIDEBAR": {"show_search": False, "show_all_applications": False, "navigation": NAVIGATION},
    "COMMAND": {"search_models": False},
    "ACCOUNT": {
        "navigation": [
            {"title": "My keys", "link": reverse_lazy("admin:my_keys")},
            {"title": "Change password", "link": reverse_lazy("admin:password_change")},
            {"title": "Second factor", "link": reverse_lazy("admin:second_factor")},
            {"title": "Sign out everywhere", "link": reverse_lazy("admin:sign_out_everywhere")},
        ]
    },
}
