"""The "test" buttons: one short call to what is saved, told as JSON. The trail keeps that it was tested, and the status."""

from __future__ import annotations

import uuid
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.http import Http404, HttpRequest, JsonResponse
from django.views.decorators.http import require_POST

from gemini_api import wire
from gemini_api.translators import TRANSLATORS
from gemini_api.translators.base import Target
from keys import audit
from keys.principal import principal_of
from keys.scoped_admin import actor_of
from routing import loading, probe
from routing.backends import BACKENDS
from routing.catalog import DeploymentEntry
from routing.models import Connection, Deployment, PublicModel

# As short as every provider takes it (the shortest answer OpenAI's Responses API allows is 16 tokens).
QUESTION: Final[dict[str, Any]] = {
    "contents": [{"role": "user", "parts": [{"text": "Say hi."}]}],
    "generationConfig": {"maxOutputTokens": 16},
}


@require_POST
def connection(request: HttpRequest, connection_id: uuid.UUID) -> JsonResponse:
    """Asks the upstream model given, else that of one of the connection's deployments."""
    found = principal_of(request).scope(Connection.objects.filter(pk=connection_id)).first()
    if found is None or not principal_of(request).may("change", found):
        raise Http404
    model = request.POST.get("upstream_model", "").strip()
    row = found.deployments.select_related("model").filter(**{"upstream_model": model} if model else {}).first()
    if row is None and not model:
        return told(ok=False, message="Name a model of this provider to ask.")
    return test(request, row or Deployment(model=PublicModel(name=model), connection=found, upstream_model=model))


@require_POST
def deployment(request: HttpRequest, deployment_id: uuid.UUID) -> JsonResponse:
    rows = Deployment.objects.select_related("connection", "model")
    found = principal_of(request).scope(rows.filter(pk=deployment_id)).first()
    if found is None or not principal_of(request).may("change", found):
        raise Http404
    return test(request, found)


def test(request: HttpRequest, row: Deployment) -> JsonResponse:
    """One call. What stands in its way is told like an answer of the upstream."""
    try:
        entry = entry_of(row)
    except loading.Unusable as error:
        return told(ok=False, message=str(error))
    translator = TRANSLATORS.get(entry.language)
    if translator is None:
        return told(ok=False, message=f"Nothing here speaks {entry.language}.")
    target = Target(
        model=entry.upstream_model,
        base_model=entry.base_model,
        capabilities=entry.capabilities,
        options=entry.endpoint.options,
        scope=entry.endpoint.scope,
    )
    letter = translator.request(wire.normalise(QUESTION), target)
    result = async_to_sync(probe.test_connection)(entry, letter.payload)
    audit.record(actor_of(request), "connection.tested", row.connection, {"status": [None, result.status]})
    return told(ok=result.ok, message=result.message, status=result.status, latency_ms=result.latency_ms)


def entry_of(row: Deployment) -> DeploymentEntry:
    """The saved row as the router would see it, also when it is disabled. Raises Unusable."""
    return DeploymentEntry(
        id=str(row.pk),
        name=str(row),
        model=row.model.name,
        connection=row.connection.name,
        kind=row.connection.kind,
        backend=BACKENDS[row.connection.kind],
        endpoint=loading.endpoint(row.connection, row),
        upstream_model=row.upstream_model,
        base_model=row.base_model or row.upstream_model,
        timeouts=loading.timeouts(row, row.model),
        capabilities=row.capabilities or {},
    )


def told(*, ok: bool, message: str, status: int = 0, latency_ms: int | None = None) -> JsonResponse:
    return JsonResponse({"ok": ok, "status": status or None, "latency_ms": latency_ms, "message": message})
