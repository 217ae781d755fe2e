"""Test a key: what it would be allowed, model by model, and why."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from keys.context import KeyContext
from keys.policy import ACTIONS
from keys.principal import principal_of
from proxy_site.console import key_choice, limit_words, verdicts
from routing import loading

MOST_MODELS = 500


def page(request: HttpRequest) -> HttpResponse:
    principal = principal_of(request)
    given = request.GET
    action = given.get("action", "")
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Key tester",
        "keys": key_choice.choices(principal),
        "actions": ACTIONS,
        "action": action if action in ACTIONS else "generateContent",
        "address": given.get("address", "").strip()[:45],
        "chosen": given.get("key", ""),
        "model": given.get("model", "").strip()[:200],
    }
    if given.get("key"):
        key = key_choice.own_or_seen(request, given["key"])
        known = key_choice.context_of(key)
        context["key"] = key
        if isinstance(known, str):
            context["problem"] = known
        else:
            context |= tested(known, context["address"], context["action"], context["model"])
    return TemplateResponse(request, "gatehouse/key_tester.html", context)


def tested(context: KeyContext, address: str, action: str, name: str) -> dict[str, Any]:
    """Checks of the key itself, then of every model it could ask for (or of the one named, also by an alias)."""
    catalog = loading.current()
    checks = verdicts.of_key(context, address, action)
    models = catalog.visible(context.organization_id)[:MOST_MODELS]
    if name:
        found = verdicts.resolved(catalog, context, name)
        models = [found] if found else []
    usable = all(check.ok is not False for check in checks)
    rows = []
    for model in models:
        verdict, place = verdicts.of_model(context, model.name), verdicts.of_place(model)
        rules = [limit_words.words(rule) for rule in verdicts.binding(context, model.name)]
        rows.append(
            {
                "model": model,
                "allowed": usable and verdict.ok and place.ok,
                "verdict": verdict,
                "place": place,
                "limits": rules,
            }
        )
    unknown = verdicts.of_model(context, name) if name and not models else None
    return {"checks": checks, "usable": usable, "rows": rows, "unknown": unknown}
