"""What can be done to a virtual key, each on a page that asks once: rotate, disable, enable, revoke."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from unfold.widgets import (
    UnfoldAdminRadioSelectWidget,
    UnfoldAdminTextInputWidget,
)

from keys import issue
from keys.models import VirtualKey
from keys.scoped_admin import actor_of


class StepForm(forms.Form):
    """One question before something is done to a key."""

    title: str
    button: str
    danger = False

    def __init__(self, key: VirtualKey, *args: Any, **kwargs: Any) -> None:
        self.key = key
        super().__init__(*args, **kwargs)

    def words(self) -> str:
        raise NotImplementedError  # every step says what it does

    def do(self, request: HttpRequest) -> str:
        """Do it. Returns a new secret, or ""."""
        raise NotImplementedError  # every step does something


GRACES = [("0", "Now"), ("1", "In 1 hour"), ("24", "In 24 hours"), ("168", "In 7 days")]


class RotateForm(StepForm):
    title, button = "Rotate the secret", "Make a new secret"
    grace = forms.ChoiceField(
        label="The old secret ends", choices=GRACES, initial="24", widget=UnfoldAdminRadioSelectWidget
    )

    def words(self) -> str:
        return (
            "The key gets a new secret, shown once on the next page. Spend, limits and history stay with the key. "
            f"The old secret goes on working until the time you choose. {self.last_used()}"
        )

    def last_used(self) -> str:
        """When each secret that works was used last: who still has to change over."""
        live = self.key.secrets.filter(revoked_at=None).order_by("-created_at")
        told = [f"{each.hint} was last used {used(each.last_used_at)}" for each in live]
        return f"{'; '.join(told)}." if told else ""

    def do(self, request: HttpRequest) -> str:
        return issue.rotate(self.key, timedelta(hours=int(self.cleaned_data["grace"])), actor_of(request))


def used(moment: datetime | None) -> str:
    return f"on {moment:%Y-%m-%d at %H:%M} UTC" if moment else "never"


class ToggleForm(StepForm):
    def __init__(self, key: VirtualKey, *args: Any, **kwargs: Any) -> None:
        super().__init__(key, *args, **kwargs)
        self.button = "Disable" if key.state == "active" else "Enable"
        self.title = f"{self.button} the key"

    def words(self) -> str:
        if self.key.state == "active":
            return "Calls with this key are refused within a second, until somebody enables it again."
        return "Calls with this key are answered again."

    def do(self, request: HttpRequest) -> str:
        (issue.disable if self.key.state == "active" else issue.enable)(self.key, actor_of(request))
        return ""


class RevokeForm(StepForm):
    title, button, danger = "Revoke the key", "Revoke for good", True
    typed = forms.CharField(label="Type the name of the key", widget=UnfoldAdminTextInputWidget)

    def words(self) -> str:
        return "Every secret of this key stops working within a second, for good. Its history stays."

    def clean_typed(self) -> str:
        if self.cleaned_data["typed"].strip() != self.key.name:
            raise ValidationError(f"Type “{self.key.name}” to revoke it.")
        return str(self.cleaned_data["typed"])

    def do(self, request: HttpRequest) -> str:
        issue.revoke(self.key, actor_of(request))
        return ""
