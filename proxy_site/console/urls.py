"""The console's pages, under /admin/ and in the admin's own namespace."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.urls import URLPattern, path

from proxy_site.console import issued, models_json, testing


def patterns(site: AdminSite) -> list[URLPattern]:
    def guarded(view: object) -> object:
        return site.admin_view(view)  # type: ignore[type-var]  # any view

    return [
        path("keys/virtualkey/<uuid:key_id>/secret/", guarded(issued.page), name="key_secret"),
        path("models.json", guarded(models_json.view), name="models_json"),
        path("routing/connection/<uuid:connection_id>/test/", guarded(testing.connection), name="connection_test"),
        path("routing/deployment/<uuid:deployment_id>/test/", guarded(testing.deployment), name="deployment_test"),
    ]  # type: ignore[list-item]  # as above
