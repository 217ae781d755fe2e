"""The console's pages, under /admin/ and in the admin's own namespace."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.admin import AdminSite
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path

from proxy_site.console import (
    alert_settings,
    issued,
    models_json,
    passkey_pages,
    second_factor,
    sign_in,
    single_sign_on,
    testing,
)
from proxy_site.console.pages import PAGES


def patterns(site: AdminSite) -> list[URLPattern]:
    pages: list[tuple[str, Callable[..., HttpResponseBase], str]] = [
        ("keys/virtualkey/<uuid:key_id>/secret/", issued.page, "key_secret"),
        ("models.json", models_json.view, "models_json"),
        ("routing/connection/<uuid:connection_id>/test/", testing.connection, "connection_test"),
        ("routing/deployment/<uuid:deployment_id>/test/", testing.deployment, "deployment_test"),
        ("keys/organization/<uuid:organization_id>/alerts/", alert_settings.page, "organization_alerts"),
        ("second-factor/", second_factor.page, "second_factor"),
        ("second-factor/passkeys/", passkey_pages.page, "passkeys"),
        ("sign-out-everywhere/", sign_in.sessions, "sign_out_everywhere"),
        *PAGES,
    ]
    inside = [path(route, site.admin_view(view), name=name) for route, view, name in pages]
    doors = [
        *sign_in.DOORS,
        ("single-sign-on/", single_sign_on.begin, "single_sign_on"),
        ("single-sign-on/back/", single_sign_on.back, "single_sign_on_back"),
        ("passkey/", passkey_pages.challenge, "passkey_challenge"),
        ("passkey/sign-in/", passkey_pages.sign_in, "passkey_sign_in"),
    ]
    return [*inside, *(path(route, view, name=name) for route, view, name in doors)]
