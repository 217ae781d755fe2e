"""Who is told when an organization's limits fill: mail addresses, a webhook with its signing secret, and a try."""

from __future__ import annotations

import secrets
import uuid
from typing import Any
from urllib.parse import urlsplit

from asgiref.sync import async_to_sync
from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminURLInputWidget

from keys import audit
from keys.form_fields import MailsField
from keys.models import Organization
from keys.principal import principal_of
from keys.scoped_admin import MASKED, actor_of
from proxy_site.console.throttle import within
from routing import addresses, credentials
from routing.credentials import CredentialError
from usage import alerts

SHORTEST = 16
TESTS_AN_HOUR = 20


class AlertForm(forms.Form):
    emails = MailsField(label="Mail addresses", empty=[], help_text="One a line.")
    url = forms.URLField(
        label="Webhook URL",
        required=False,
        max_length=200,
        assume_scheme="https",
        widget=UnfoldAdminURLInputWidget,
        help_text="Gets a signed POST. It may not lead into a private network.",
    )
    secret = forms.CharField(
        label="Signing secret",
        required=False,
        min_length=SHORTEST,
        max_length=120,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
        help_text="Yours, to replace the one that is set. Empty: it stays as it is.",
    )

    def clean_url(self) -> str:
        given = str(self.cleaned_data["url"])
        if given:
            try:
                addresses.check_url(urlsplit(given)._replace(query="").geturl(), allow_private=False)
            except addresses.AddressRefused as error:
                raise ValidationError(str(error).replace("base URL", "webhook URL")) from None
        return given


def page(request: HttpRequest, organization_id: uuid.UUID) -> HttpResponse:
    """POST with action save, renew (a new secret, shown in this answer alone) or test."""
    principal = principal_of(request)
    organization = principal.scope(Organization.objects.all()).filter(pk=organization_id).first()
    if organization is None:
        raise Http404
    if not principal.may("change", organization):
        raise PermissionDenied("Your role does not let you change this.")
    form, made = AlertForm(initial=settings_of(organization)), ""
    match request.POST.get("action") if request.method == "POST" else None:
        case "save":
            form = AlertForm(request.POST, initial=settings_of(organization))
            if form.is_valid() and save(request, organization, form):
                return HttpResponseRedirect(reverse("admin:organization_alerts", args=[organization.pk]))
        case "renew":
            made = f"whsec_{secrets.token_urlsafe(32)}"
            keep(request, organization, {}, made)
        case "test":
            try_it(request, organization)
            return HttpResponseRedirect(reverse("admin:organization_alerts", args=[organization.pk]))
    context = {
        **admin.site.each_context(request),
        "title": "Alerts",
        "subtitle": organization.name,
        "opts": Organization._meta,
        "original": organization,
        "organization": organization,
        "form": form,
        "made": made,
    }
    return TemplateResponse(request, "gatehouse/alert_settings.html", context)


def settings_of(organization: Organization) -> dict[str, Any]:
    return {"emails": organization.alert_emails.split(), "url": organization.alert_webhook_url}


def save(request: HttpRequest, organization: Organization, form: AlertForm) -> bool:
    given = form.cleaned_data
    changed = {"alert_emails": "\n".join(given["emails"]), "alert_webhook_url": given["url"]}
    try:
        keep(request, organization, changed, given["secret"])
    except CredentialError as error:
        form.add_error("secret", str(error))
        return False
    messages.success(request, "Saved.")
    return True


def keep(request: HttpRequest, organization: Organization, changed: dict[str, str], secret: str) -> None:
    """Write what is different, with its line in the trail. secret "": as it was. Raises CredentialError."""
    told = {name: [getattr(organization, name), value] for name, value in changed.items()}
    told = {name: pair for name, pair in told.items() if pair[0] != pair[1]}
    if secret:
        changed["alert_webhook_secret"] = credentials.seal_text("webhook", str(organization.pk), secret)
        told["alert_webhook_secret"] = [MASKED, MASKED]
    if not told:
        return
    with transaction.atomic():
        Organization.objects.filter(pk=organization.pk).update(**changed)
        audit.record(actor_of(request), "organization.changed", organization, told, organization.pk)
    organization.refresh_from_db()


def try_it(request: HttpRequest, organization: Organization) -> None:
    if not organization.alert_emails and not organization.alert_webhook_url:
        messages.error(request, "There is nobody to tell yet. Give a mail address or a webhook, and save.")
    elif not within(f"alert-test:{organization.pk}", TESTS_AN_HOUR):
        messages.error(request, f"{TESTS_AN_HOUR} tests an hour are enough. Go on later.")
    else:
        try:
            async_to_sync(alerts.alerts.test)(alerts.trial_letter(organization))
        except (alerts.NotTold, CredentialError) as error:
            messages.error(request, f"The test alert was not heard. {error}")
        else:
            messages.success(request, "The test alert was sent and heard.")
