"""What would this deployment drop? A request in, the translators' own losses out. Nothing is sent anywhere."""

from __future__ import annotations

import json as pretty
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from gemini_api import wire
from gemini_api.errors import GeminiError
from gemini_api.question import capabilities_of, parse
from gemini_api.translators import TRANSLATORS
from gemini_api.translators.base import Target
from keys.principal import Principal, principal_of
from proxy_site.console import bodies, key_choice, testing
from proxy_site.console.samples import BY_NAME, PIXEL, SAMPLES
from routing import loading
from routing.catalog import DeploymentEntry
from routing.credentials import CredentialError
from routing.models import Deployment
from usage.models import RequestRecord

MOST_BYTES = 1024 * 1024
LONGEST = 200  # characters of one text in the shown letter
MOST_DEPLOYMENTS = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one deployment makes of a request. refused: why it cannot be answered at all."""

    name: str
    model: str
    language: str
    dropped: tuple[str, ...] = ()
    refused: str = ""
    letter: str = ""
    id: str = ""


def page(request: HttpRequest) -> HttpResponse:
    """The deployment in the address; the request in the form, because it may be long."""
    principal = principal_of(request)
    if not principal.may("view", Deployment):
        raise PermissionDenied("Deployments are shown to admins.")
    rows = list(
        principal.scope(Deployment.objects.select_related("model", "connection").order_by("model__name", "priority"))[
            :MOST_DEPLOYMENTS
        ]
    )
    wanted = request.GET.get("deployment", "")
    if wanted and wanted not in {str(row.pk) for row in rows}:
        raise Http404
    record = recorded(principal, request.GET.get("record", ""))
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Loss preview",
        "rows": [(str(row.pk), f"{row.model}: {row}") for row in rows],
        "wanted": wanted,
        "samples": SAMPLES,
        "latest": bodies.latest(principal),
        "strict": request.POST.get("strict") == "on",
        "record": record,
        "record_kept": record is not None and bodies.found(principal, record.pk) is not None,
        **started_from(request),
    }
    text = context["text"]
    try:
        body = wire.normalise(parse(text.encode("utf-8", "replace")[:MOST_BYTES]))
        chosen = [row for row in rows if not wanted or str(row.pk) == wanted]
        context["verdicts"] = [judged(row, body, context["strict"]) for row in chosen]
    except GeminiError as error:
        context["problem"] = str(error)
    return TemplateResponse(request, "gatehouse/losses.html", context)


def started_from(request: HttpRequest) -> dict[str, Any]:
    """The request to look at, and where it is from: what was written into the form, a kept request, or a sample.

    404 for a kept request that is not this person's to read; reading one is audited.
    """
    given = request.GET.get("kept", "")
    kept = bodies.found(principal_of(request), given) if given else None
    if given and kept is None:
        raise Http404
    if request.method == "POST" and request.POST.get("request"):
        return {"text": request.POST["request"], "kept": given, "edited": True}
    if kept is not None:
        try:
            body = bodies.read(request, kept)
        except CredentialError as error:
            return {"text": "", "kept": given, "unreadable": str(error)}
        text = bodies.with_stand_ins(bodies.laid_out(body.request), PIXEL)
        return {"text": text, "kept": given, "cut": not body.request_whole}
    sample = BY_NAME.get(request.GET.get("sample", ""), SAMPLES[0])
    return {"text": pretty.dumps(sample.body, indent=2), "sample": sample}


def recorded(principal: Principal, record_id: str) -> RequestRecord | None:
    """A call whose own losses are shown beside, when it is this person's to see; 404 when not."""
    if not record_id:
        return None
    wanted = key_choice.parsed(record_id)
    found = principal.scope(RequestRecord.objects.filter(pk=wanted)).first() if wanted else None
    if found is None:
        raise Http404
    return found


def judged(row: Deployment, body: dict[str, Any], strict: bool) -> Verdict:
    """The letter this deployment would get, or why it would get none."""
    try:
        entry = testing.entry_of(row)
    except loading.Unusable as error:
        return Verdict(str(row), row.model.name, "", refused=str(error), id=str(row.pk))
    found = Verdict(str(row), row.model.name, entry.language, id=str(row.pk))
    translator = TRANSLATORS.get(entry.language)
    if translator is None:
        return Verdict(found.name, found.model, entry.language, refused="Nothing here speaks this language.")
    try:
        letter = translator.request(body, target_of(entry, strict))
    except GeminiError as error:
        return Verdict(found.name, found.model, entry.language, refused=str(error), id=found.id)
    payload = letter.payload if isinstance(letter.payload, dict) else parse(letter.payload)
    shown = pretty.dumps(shortened(payload), indent=2, ensure_ascii=False)
    return Verdict(found.name, found.model, entry.language, dropped=letter.dropped, letter=shown, id=found.id)


def target_of(entry: DeploymentEntry, strict: bool) -> Target:
    return Target(
        model=entry.upstream_model,
        base_model=entry.base_model,
        capabilities=capabilities_of(entry),
        options=entry.endpoint.options,
        scope=entry.endpoint.scope,
        strict=strict,
    )


def shortened(value: Any) -> Any:
    """The same JSON with long texts cut: images would fill the page."""
    match value:
        case dict():
            return {name: shortened(each) for name, each in value.items()}
        case list() | tuple():
            return [shortened(each) for each in value]
        case str() if len(value) > LONGEST:
            return f"{value[:LONGEST]}… ({len(value):,} characters)"
        case _:
            return value
