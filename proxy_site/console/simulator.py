"""Why would the router choose? A model and a key in, the router's own explanation out: policy first. Nobody is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from keys import policy
from keys.context import KeyContext
from keys.principal import ADMIN, principal_of
from proxy_site.console import key_choice, verdicts
from proxy_site.console.health import STATES
from proxy_site.console.verdicts import Verdict
from routing import loading
from routing.catalog import Catalog, ModelEntry
from routing.explain import Row, explain
from routing.router import Hints

MOST_TOKENS = 2_000_000


@dataclass(frozen=True, slots=True)
class Decision:
    verdicts: list[Verdict]
    model: ModelEntry | None
    rows: list[tuple[Row, str, str]]  # with its state in words, and that word's colour
    unusable: list[str]

    @property
    def refused(self) -> bool:
        return any(each.ok is False for each in self.verdicts)


def page(request: HttpRequest) -> HttpResponse:
    principal = principal_of(request)
    if not key_choice.is_admin_somewhere(principal):
        raise PermissionDenied("Decisions are explained to admins.")
    given = request.GET
    catalog = loading.current()
    stream = given.get("action") != "generateContent"
    size = given.get("tokens", "")
    tokens = min(int(size), MOST_TOKENS) if size.isascii() and size.isdigit() and len(size) < 10 else 0
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Routing simulator",
        "keys": key_choice.choices(principal, rank=ADMIN),
        "models": [],
        "chosen": {
            "key": given.get("key", ""),
            "model": given.get("model", ""),
            "address": given.get("address", "").strip(),
        },
        "stream": stream,
        "tokens": tokens,
    }
    if given.get("key"):
        key = key_choice.managed(request, given["key"])
        known = key_choice.context_of(key)
        context["key"] = key
        context["models"] = [model.name for model in catalog.visible(str(key.organization_id))]
        if isinstance(known, str):
            context["problem"] = known
        elif given.get("model"):
            action = "streamGenerateContent" if stream else "generateContent"
            address = context["chosen"]["address"]
            context["decision"] = decide(catalog, known, given["model"].strip(), action, address, tokens)
    return TemplateResponse(request, "gatehouse/simulator.html", context)


def decide(catalog: Catalog, context: KeyContext, name: str, action: str, address: str, prompt_tokens: int) -> Decision:
    """What would become of this call, now."""
    model = verdicts.resolved(catalog, context, name)
    checks = [*verdicts.of_key(context, address, action), verdicts.of_model(context, model.name if model else name)]
    if model is None:
        return Decision([*checks, Verdict("Model", False, f"There is no model “{name}”: 404.")], None, [], [])
    hints = Hints(
        stream=action == "streamGenerateContent",
        prompt_tokens=prompt_tokens,
        organization_id=context.organization_id,
        catalog=catalog,
        allows=lambda other: policy.allows_model(context, other),
    )
    return Decision(
        [*checks, verdicts.of_place(model)],
        model,
        [(row, *STATES[row.state]) for row in explain(model, hints)],
        list(catalog.unusable.values()) if not model.deployments else [],
    )
