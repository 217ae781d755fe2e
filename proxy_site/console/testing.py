"""The "test" buttons: one call of one token to what is saved, told as JSON."""

from __future__ import annotations

import uuid

from asgiref.sync import async_to_sync
from django.http import Http404, HttpRequest, JsonResponse
from django.views.decorators.http import require_POST

from keys.principal import principal_of
from routing.models import Connection, Deployment


@require_POST
def connection(request: HttpRequest, connection_id: uuid.UUID) -> JsonResponse:
    """Tests with the upstream model given, else with that of one of its deployments."""
    found = principal_of(request).scope(Connection.objects.filter(pk=connection_id)).first()
    if found is None or not principal_of(request).may("change", found):
        raise Http404
    model = request.POST.get("upstream_model", "").strip()
    if not model:
        deployment = found.deployments.first()
        if deployment is None:
            return told(ok=False, message="Name a model of this provider to ask.")
        model = deployment.upstream_model
    return ask(found, model)


@require_POST
def deployment(request: HttpRequest, deployment_id: uuid.UUID) -> JsonResponse:
    found = (
        principal_of(request).scope(Deployment.objects.select_related("connection").filter(pk=deployment_id)).first()
    )
    if found is None or not principal_of(request).may("change", found):
        raise Http404
    return ask(found.connection, found.upstream_model)


def ask(connection: Connection, upstream_model: str) -> JsonResponse:
    from routing import probe  # noqa: PLC0415 - being written beside this

    return JsonResponse(async_to_sync(probe.connection)(connection, upstream_model))


def told(*, ok: bool, message: str, status: int | None = None, latency_ms: int | None = None) -> JsonResponse:
    return JsonResponse({"ok": ok, "status": status, "latency_ms": latency_ms, "message": message})
