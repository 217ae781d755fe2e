"""What making and changing a virtual key asks for."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminRadioSelectWidget,
    UnfoldAdminSelectWidget,
)

from keys import issue, presets
from keys.form_fields import ExpiryField, LinesField, NetworksField
from keys.models import Organization, Team, VirtualKey
from keys.principal import ADMIN, MEMBER, Principal

ACTIONS = [
    ("generateContent", "generateContent"),
    ("streamGenerateContent", "streamGenerateContent"),
    ("countTokens", "countTokens"),
    ("embedContent", "embedContent"),
    ("batchEmbedContents", "batchEmbedContents"),
    ("listModels", "List models"),
]
ACCESS = [("every", "Every model"), ("these", "These models"), ("none", "No model")]


class KeyForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    """What both making and changing a key ask for."""

    principal: Principal
    access = forms.ChoiceField(
        label="Models",
        choices=ACCESS,
        initial="every",
        widget=UnfoldAdminRadioSelectWidget,
        help_text="Which models this key may use. A model that is denied stays denied.",
    )
    allowed_models = LinesField(label="Allowed models", help_text="One name or pattern a line: gemini-2.5-*")
    denied_models = LinesField(empty=[], help_text="One name or pattern a line. Deny beats allow.")
    scopes = forms.MultipleChoiceField(
        label="Actions",
        required=False,
        choices=ACTIONS,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="None chosen: all of them.",
    )
    networks = NetworksField(help_text="One CIDR range a line: 10.0.0.0/8. Empty: from anywhere.")
    expires_at = ExpiryField(label="Expires")
    tags = LinesField(empty=[], rows=2, each_max=50, help_text="One a line; they go into every record of a call.")

    class Meta:
        model = VirtualKey
        fields = (
            "name", "team", "owner", "allowed_models", "denied_models", "scopes", "networks", "expires_at", "tags",
            "strict_fields", "log_bodies", "outage_policy",
        )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        allowed = self.instance.allowed_models
        if not self.instance._state.adding and "access" in self.fields:
            self.fields["access"].initial = "every" if allowed is None else "these" if allowed else "none"

    def clean_name(self) -> str:
        return str(self.cleaned_data["name"]).strip()

    def clean_allowed_models(self) -> list[str] | None:
        given = self.cleaned_data["allowed_models"]
        return issue.patterns(given) if given else given

    def clean_denied_models(self) -> list[str]:
        return issue.patterns(self.cleaned_data["denied_models"])

    def clean_networks(self) -> list[str] | None:
        given = self.cleaned_data["networks"]
        return issue.ranges(given) if given else None

    def clean_scopes(self) -> list[str] | None:
        return self.cleaned_data["scopes"] or None

    def clean_expires_at(self) -> Any:
        given = self.cleaned_data["expires_at"]
        if given and "expires_at" in self.changed_data and given <= timezone.now():
            raise ValidationError("This date has passed. To end a key now, disable or revoke it.")
        return given

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        match given.get("access"):
            case "every":
                given["allowed_models"] = None
            case "none":
                given["allowed_models"] = []
            case "these" if not given.get("allowed_models") and "allowed_models" not in self.errors:
                self.add_error("allowed_models", "Name at least one model, or choose “No model”.")
        return given


class NewKeyForm(KeyForm):
    """Three fields make a key: a name, whose it is, and the limits it starts with. The rest has sensible values."""

    belongs_to = forms.ChoiceField(label="Belongs to", widget=UnfoldAdminSelectWidget)
    preset = forms.ChoiceField(
        label="Preset",
        choices=presets.CHOICES,
        initial=presets.PRESETS[0].id,
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="The limits the key starts with; an administrator can change each of them later.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["belongs_to"].choices = places(self.principal)  # type: ignore[attr-defined]  # a ChoiceField

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        organization_id, _slash, team_id = str(given.get("belongs_to", "")).partition("/")
        if not organization_id:
            return given
        self.instance.organization = Organization.objects.get(pk=organization_id)
        self.instance.team = Team.objects.get(pk=team_id) if team_id else None
        if VirtualKey.objects.filter(organization=self.instance.organization, name=given.get("name")).exists():
            self.add_error("name", f"{self.instance.organization} has a key of this name already.")
        if self.principal.rank_over(self.instance.organization_id, self.instance.team_id) < ADMIN:
            given["owner"] = self.principal.user  # a member makes keys for themselves alone
        return given


def free_name(source: VirtualKey) -> str:
    """A name for a copy that its organization has not used yet."""
    taken = set(VirtualKey.objects.filter(organization_id=source.organization_id).values_list("name", flat=True))
    base = source.name[:80]
    return next(
        name
        for number in range(1, len(taken) + 2)
        if (name := f"{base} copy" if number == 1 else f"{base} copy {number}") not in taken
    )


def places(principal: Principal) -> list[tuple[str, str]]:
    """Where this person may make keys: organizations, and teams in them."""
    organizations = principal.organizations.filter(status=Organization.Status.ACTIVE).prefetch_related("teams")
    found = []
    for organization in organizations:
        if principal.rank_over(organization.pk) >= MEMBER:
            found.append((str(organization.pk), organization.name))
        found += [
            (f"{organization.pk}/{team.pk}", f"{organization.name} / {team.name}")
            for team in organization.teams.all()
            if principal.rank_over(organization.pk, team.pk) >= MEMBER
        ]
    return found
