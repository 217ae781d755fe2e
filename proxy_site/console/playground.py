"""The playground: one call in the name of a key, through the way every call goes, flagged as playground in the record.

Limits bind, budgets are charged, and policy is the key's own. Nothing here knows a provider's credential.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.http import require_POST

from gemini_api import dispatch
from gemini_api.call import Call, model_name
from gemini_api.errors import GeminiError
from keys import policy
from keys.context import KeyContext
from keys.principal import ADMIN, principal_of
from lib import json
from proxy_site.console import issued, key_choice
from routing import loading

EVENT = b"data: "


def page(request: HttpRequest) -> HttpResponse:
    principal = principal_of(request)
    if not key_choice.is_admin_somewhere(principal):
        raise PermissionDenied("The playground is for admins.")
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Playground",
        "keys": key_choice.choices(principal, rank=ADMIN),
        "chosen": request.GET.get("key", ""),
        "model": request.GET.get("model", ""),
        "base": issued.base_url(request),
        "record_url": reverse("admin:request_json"),
    }
    return TemplateResponse(request, "gatehouse/playground.html", context)


def models(request: HttpRequest) -> JsonResponse:
    """?key=ID: the models this key may use."""
    key = key_choice.managed(request, request.GET.get("key", ""))
    known = key_choice.context_of(key)
    if isinstance(known, str):
        return JsonResponse({"models": [], "problem": known})
    names = [
        model.name
        for model in loading.current().visible(known.organization_id)
        if policy.allows_model(known, model.name) and model.deployments
    ]
    return JsonResponse(
        {"models": names, "problem": "" if names else "This key may use no model that has a deployment."}
    )


@require_POST
def send(request: HttpRequest) -> HttpResponseBase:
    """The answer as lines of JSON: {"id"}, then {"chunk"}s or {"error"}. Closing the connection cancels the call."""
    try:
        given = json.loads(request.body)
    except json.JSONDecodeError:
        return refused("The form could not be read.")
    if (
        not isinstance(given, dict)
        or not isinstance(given.get("body"), dict)
        or not isinstance(given.get("model"), str)
    ):
        return refused("A model and a body are needed.")
    key = key_choice.managed(request, str(given.get("key", "")))
    known = key_choice.context_of(key)
    if isinstance(known, str):
        return refused(known)
    call = call_of(request, known, given["model"], given["body"], stream=given.get("stream") is True)
    response = StreamingHttpResponse(lines(call), content_type="application/x-ndjson")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


def refused(message: str) -> JsonResponse:
    return JsonResponse({"error": {"message": message}}, status=400)


def call_of(request: HttpRequest, key: KeyContext, model: str, body: dict[str, Any], *, stream: bool) -> Call:
    return Call(
        key=key,
        action="streamGenerateContent" if stream else "generateContent",
        requested=model_name(model),
        body=json.dumps(body),
        body_error=None,
        stream=stream,
        sse=stream,
        address=str(request.META.get("REMOTE_ADDR", "")),
        client="Gatehouse playground",
        label=str(request.user)[:100],
        playground=True,
    )


async def lines(call: Call) -> AsyncIterator[bytes]:
    try:
        if not call.stream:
            answer = await dispatch.generate(call)
            yield line({"id": answer.headers["x-request-id"]})
            yield b'{"chunk":' + one_line(answer.content) + b"}\n"
            return
        streamed = await dispatch.stream(call)
        try:
            yield line({"id": streamed.headers["x-request-id"]})
            async with aclosing(streamed.chunks) as chunks:
                async for event in chunks:
                    if event.startswith(EVENT):  # a failure comes twice, once bare: see gemini_api.output
                        yield b'{"chunk":' + event[len(EVENT) :].strip() + b"}\n"
        finally:
            streamed.left()
    except GeminiError as error:
        yield line({"id": error.answer_headers.get("x-request-id", ""), "error": error.body()["error"]})


def one_line(text: bytes) -> bytes:
    """JSON without its line breaks: a provider's own answer may be laid out for people. None stands inside a string."""
    return text.replace(b"\r", b"").replace(b"\n", b"")


def line(value: Any) -> bytes:
    return json.dumps_line(value) + b"\n"
