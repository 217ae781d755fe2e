"""The console's own pages: address, view, name. Every one asks the principal first."""

from __future__ import annotations

from collections.abc import Callable

from django.http.response import HttpResponseBase

from proxy_site.console import (
    audit_log,
    bodies,
    budgets,
    explorer,
    health,
    key_page,
    key_tester,
    live,
    losses,
    playground,
    simulator,
)

PAGES: list[tuple[str, Callable[..., HttpResponseBase], str]] = [
    ("usage/explorer/", explorer.page, "explorer"),
    ("usage/explorer.json", explorer.as_json, "explorer_json"),
    ("usage/explorer.csv", explorer.as_csv, "explorer_csv"),
    ("usage/explorer/save/", explorer.save_view, "explorer_save"),
    ("saved-views/<uuid:view_id>/delete/", explorer.delete_view, "explorer_delete"),
    ("usage/requests.csv", live.as_csv, "requests_csv"),
    ("usage/requests/live/", live.rows, "requests_live"),
    ("usage/request.json", live.one, "request_json"),
    ("usage/storedbody/<uuid:call_id>/", bodies.page, "request_body"),
    ("health/", health.page, "health"),
    ("health/<uuid:deployment_id>/<slug:what>/", health.switch, "health_switch"),
    ("simulator/", simulator.page, "simulator"),
    ("losses/", losses.page, "losses"),
    ("key-tester/", key_tester.page, "key_tester"),
    ("playground/", playground.page, "playground"),
    ("playground/models.json", playground.models, "playground_models"),
    ("playground/send/", playground.send, "playground_send"),
    ("my-keys/", key_page.mine, "my_keys"),
    ("keys/virtualkey/<uuid:key_id>/page/", key_page.page, "key_page"),
    ("keys/virtualkey/<uuid:key_id>/first.json", key_page.first, "key_first"),
    ("budgets/", budgets.page, "budgets"),
    ("audit/", audit_log.page, "audit_log"),
    ("audit.csv", audit_log.as_csv, "audit_csv"),
    ("audit/verify/", audit_log.verify, "audit_verify"),
]
