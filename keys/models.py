"""Who is asking: people, tenants, virtual keys, their secrets and limits, and the audit trail."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractUser
from django.contrib.auth.models import UserManager as DjangoUserManager
from django.db import models
from django.utils import timezone
from django.utils.crypto import salted_hmac

from lib.ids import uuid7


class UserManager(DjangoUserManager["User"]):
    """People sign in with their mail address; the username mirrors it."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:  # type: ignore[override]  # fewer names to sign in with
        fields.setdefault("username", email)
        return super().create_user(email=email, password=password, **fields)

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:  # type: ignore[override]  # as above
        fields.setdefault("username", email)
        return super().create_superuser(email=email, password=password, **fields)


class User(AbstractUser):
    """A person who signs in to the admin. A superuser is a platform admin; everybody else acts by membership."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField("mail address", unique=True)
    sessions_version = models.PositiveIntegerField(default=0, editable=False, help_text="Raised to end every session.")

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects: ClassVar[UserManager] = UserManager()

    def __str__(self) -> str:
        return self.email

    def _get_session_auth_hash(self, secret: str | None = None) -> str:
        """What every session is compared with: another password ends them all, and so does another version."""
        found: str = super()._get_session_auth_hash(secret)  # type: ignore[misc]  # not in the stubs
        if not self.sessions_version:
            return found
        return salted_hmac("keys.models.User.sessions", f"{self.sessions_version}{found}", secret=secret).hexdigest()


class SecondFactor(models.Model):
    """A person's authenticator app (TOTP, RFC 6238), and the recovery codes for when it is lost."""

    user = models.OneToOneField(User, models.CASCADE, primary_key=True, related_name="second_factor")
    sealed_secret = models.CharField(max_length=300)
    confirmed_at = models.DateTimeField(null=True, help_text="Asked for from the first right code on.")
    last_step = models.BigIntegerField(default=0, help_text="The latest step a code was taken for; none works twice.")
    recovery_codes = models.JSONField(default=list, help_text="HMACs of the codes that are left.")

    def __str__(self) -> str:
        return f"second factor of {self.user}"


class Passkey(models.Model):
    """A person's key for signing in without a password (WebAuthn). The private half never leaves their device."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="passkeys")
    name = models.CharField(max_length=60)
    credential_id = models.CharField(max_length=1400, unique=True, help_text="What the device calls it, in base64url.")
    credential = models.TextField(help_text="Attested credential data with the public key, in base64url.")
    sign_count = models.BigIntegerField(default=0, help_text="Grows with every use, or stays 0: else it was copied.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["created_at"]

    def __str__(self) -> str:
        return self.name


class Identity(models.Model):
    """A person as the single sign-on provider knows them. The subject is theirs for good; a mail address may change."""

    user = models.ForeignKey(User, models.CASCADE, related_name="identities")
    issuer = models.CharField(max_length=300)
    subject = models.CharField(max_length=255)
    made_platform_admin = models.BooleanField(default=False, help_text="By a group, and so for as long as that lasts.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["issuer", "subject"], name="identity_of_one_person"),
            models.UniqueConstraint(fields=["issuer", "user"], name="one_identity_a_person"),
        ]

    def __str__(self) -> str:
        return f"{self.user} at {self.issuer}"


class OutagePolicy(models.TextChoices):
    LOCAL = "local", "Go on with this process's own share"
    DENY = "deny", "Refuse calls until limits can be checked"


class Organization(models.Model):
    """A tenant. Everything that belongs to somebody belongs to one of these."""

    class Status(models.TextChoices):
        ACTIVE = "active", "Active"
        SUSPENDED = "suspended", "Suspended"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(unique=True, help_text="Short name for addresses and configuration files.")
    name = models.CharField(max_length=100)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.ACTIVE)
    time_zone = models.CharField(max_length=64, default="UTC", help_text="Days, weeks and months of limits follow it.")
    alert_webhook_url = models.URLField(blank=True, help_text="Told when a limit reaches 80, 95 and 100 %.")
    alert_webhook_secret = models.CharField(max_length=300, blank=True, help_text="Sealed; signs every alert.")
    alert_emails = models.TextField(blank=True, help_text="One mail address a line.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["name"]

    def __str__(self) -> str:
        return self.name


class Team(models.Model):
    """A group inside an organization; keys and limits may belong to it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organization = models.ForeignKey(Organization, models.CASCADE, related_name="teams")
    slug = models.SlugField()
    name = models.CharField(max_length=100)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["name"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "slug"], name="team_slug_per_organization"),
        ]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """What a person may do in an organization, or in one team of it."""

    class Role(models.TextChoices):
        OWNER = "owner", "Owner"
        ADMIN = "admin", "Admin"
        MEMBER = "member", "Member"
        VIEWER = "viewer", "Viewer"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    organization = models.ForeignKey(Organization, models.CASCADE, related_name="memberships")
    team = models.ForeignKey(Team, models.CASCADE, null=True, blank=True, related_name="memberships")
    role = models.CharField(max_length=8, choices=Role.choices, default=Role.MEMBER)
    by_group = models.BooleanField(
        default=False, db_default=False, editable=False, help_text="Given by single sign-on, and taken by it."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["user", "organization", "team"], name="membership_once"),
            models.UniqueConstraint(
                fields=["user", "organization"],
                condition=models.Q(team__isnull=True),
                name="membership_once_without_team",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.organization}"


class Invitation(models.Model):
    """A mail address asked into an organization, or one team of it. Its link works once, until it expires.

    The link is signed and kept nowhere: keys/invitations.py makes it from the id whenever it is shown.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organization = models.ForeignKey(Organization, models.CASCADE, related_name="invitations")
    team = models.ForeignKey(Team, models.CASCADE, null=True, blank=True, related_name="invitations")
    email = models.EmailField("mail address")
    role = models.CharField(max_length=8, choices=Membership.Role.choices, default=Membership.Role.MEMBER)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+", editable=False)
    expires_at = models.DateTimeField(editable=False)
    accepted_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.email} into {self.organization}"

    @property
    def state(self) -> str:
        if self.accepted_at:
            return "Accepted"
        if self.revoked_at:
            return "Revoked"
        return "Pending" if self.expires_at > timezone.now() else "Expired"


class VirtualKey(models.Model):
    """A secret handed to one client, standing in for the real provider credentials.

    Its secrets are rows of KeySecret, stored as fingerprints and shown once. Spend, limits and history belong
    to the key, never to a secret.
    """

    class State(models.TextChoices):
        ACTIVE = "active", "Active"
        DISABLED = "disabled", "Disabled"
        REVOKED = "revoked", "Revoked"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organization = models.ForeignKey(Organization, models.CASCADE, related_name="keys")
    team = models.ForeignKey(Team, models.SET_NULL, null=True, blank=True, related_name="keys")
    owner = models.ForeignKey(
        User, models.SET_NULL, null=True, blank=True, related_name="keys", help_text="Empty: a service key."
    )
    name = models.CharField(max_length=100)
    state = models.CharField(max_length=8, choices=State.choices, default=State.ACTIVE)
    allowed_models = models.JSONField(
        null=True, blank=True, default=None, help_text="Names or patterns. Null: every model; empty: none."
    )
    denied_models = models.JSONField(
        default=list, blank=True, help_text="Names or patterns that are refused, whatever else allows them."
    )
    scopes = models.JSONField(null=True, blank=True, default=None, help_text="Actions this key may use. Null: all.")
    networks = models.JSONField(
        null=True, blank=True, default=None, help_text="CIDR ranges this key may be used from. Null: anywhere."
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    tags = models.JSONField(default=list, blank=True)
    strict_fields = models.BooleanField(
        default=False, help_text="Refuse a call rather than leave out a field the backend cannot take."
    )
    log_bodies = models.BooleanField(default=False, help_text="Keep requests and answers, sealed, for a limited time.")
    outage_policy = models.CharField(max_length=5, choices=OutagePolicy.choices, default=OutagePolicy.LOCAL)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="+", editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["name"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "name"], name="key_name_per_organization"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_live(self) -> bool:
        expired = self.expires_at is not None and self.expires_at <= timezone.now()
        return self.state == self.State.ACTIVE and not expired


class KeySecret(models.Model):
    """One secret of a virtual key: only its fingerprint, and a hint to recognise it by."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    key = models.ForeignKey(VirtualKey, models.CASCADE, related_name="secrets")
    fingerprint = models.CharField(max_length=64, unique=True, help_text="HMAC-SHA-256 under the pepper, hex.")
    hint = models.CharField(max_length=20, help_text="gate_…wxyz")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    valid_until = models.DateTimeField(null=True, blank=True, help_text="End of the grace time after a rotation.")
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at"]

    def __str__(self) -> str:
        return self.hint


class ExpiryReminder(models.Model):
    """Somebody was told that a key ends within so many days. The row is what makes it once per expiry."""

    key = models.ForeignKey(VirtualKey, models.CASCADE, related_name="reminders")
    expires_at = models.DateTimeField()
    days = models.PositiveSmallIntegerField()
    told_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["key", "expires_at", "days"], name="expiry_reminder_once"),
        ]

    def __str__(self) -> str:
        return f"{self.key} ends {self.expires_at:%Y-%m-%d}"


class Limit(models.Model):
    """At most AMOUNT of METRIC per PERIOD for models matching PATTERN, on a key, a team or an organization."""

    class Metric(models.TextChoices):
        REQUESTS = "requests", "Requests"
        TOKENS = "tokens", "Tokens"
        CONCURRENT = "concurrent", "Concurrent calls"
        SPEND = "spend", "Spend (USD)"

    class Period(models.TextChoices):
        MINUTE = "minute", "a minute"
        HOUR = "hour", "an hour"
        DAY = "day", "a day"
        WEEK = "week", "a week"
        MONTH = "month", "a month"
        LIFETIME = "lifetime", "in its lifetime"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organization = models.ForeignKey(Organization, models.CASCADE, null=True, blank=True, related_name="limits")
    team = models.ForeignKey(Team, models.CASCADE, null=True, blank=True, related_name="limits")
    key = models.ForeignKey(VirtualKey, models.CASCADE, null=True, blank=True, related_name="limits")
    metric = models.CharField(max_length=10, choices=Metric.choices)
    period = models.CharField(
        max_length=8, choices=Period.choices, default=Period.MONTH, help_text="Concurrent calls have no period."
    )
    amount = models.DecimalField(
        max_digits=19, decimal_places=9, help_text="USD for spend, a whole number for the rest."
    )
    pattern = models.CharField(
        "models", max_length=200, default="*", help_text="A model name or a pattern; * is every model."
    )
    hard = models.BooleanField(default=True, help_text="Hard refuses; soft only warns.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["created_at"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=models.Q(organization__isnull=False, team__isnull=True, key__isnull=True)
                | models.Q(organization__isnull=True, team__isnull=False, key__isnull=True)
                | models.Q(organization__isnull=True, team__isnull=True, key__isnull=False),
                name="limit_on_exactly_one",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount.normalize():f} {self.get_metric_display()} {self.get_period_display()}"


class AuditEvent(models.Model):
    """Who did what to which object, when and from where. Append-only; each row carries the hash of the one before."""

    class Source(models.TextChoices):
        ADMIN = "admin", "Admin"
        API = "api", "API"
        COMMAND = "command", "Command"
        SYSTEM = "system", "System"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField(default=timezone.now, db_index=True)
    actor_id = models.CharField(max_length=40, blank=True)
    actor = models.CharField(max_length=254, blank=True, help_text="The name at that time; the person may be gone.")
    source = models.CharField(max_length=8, choices=Source.choices)
    address = models.CharField(max_length=45, blank=True)
    organization_id = models.CharField(max_length=40, blank=True, db_index=True)
    action = models.CharField(max_length=60, help_text="key.created, key.rotated, connection.changed ...")
    target_type = models.CharField(max_length=40)
    target_id = models.CharField(max_length=40)
    target_name = models.CharField(max_length=200)
    changes = models.JSONField(default=dict, help_text="Field: [before, after]; secrets masked.")
    previous_hash = models.CharField(max_length=64, blank=True)
    hash = models.CharField(max_length=64, unique=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-id"]

    def __str__(self) -> str:
        return f"{self.actor or 'system'} {self.action} {self.target_name}"


class ChangeVersion(models.Model):
    """A counter per topic (keys, catalog), raised with every change: what processes poll when no bus reaches them."""

    topic = models.CharField(primary_key=True, max_length=20)
    version = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.topic} {self.version}"
