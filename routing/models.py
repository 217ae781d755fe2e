"""Where a call can be answered: connections to providers, the models clients ask for, and the deployments behind them."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone

from keys.models import Organization
from routing import backends


class Connection(models.Model):
    """An account at a provider: kind, address, credential. The credential is sealed to this row; see credentials.py."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organization = models.ForeignKey(
        Organization, models.CASCADE, null=True, blank=True, related_name="connections", help_text="Empty: everyone's."
    )
    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=40, choices=backends.choices)
    base_url = models.CharField(max_length=500, blank=True, help_text="Empty: the provider's own address.")
    options = models.JSONField(default=dict, blank=True)
    extra_headers = models.JSONField(default=dict, blank=True)
    sealed_credential = models.TextField(blank=True, editable=False, help_text="AES-256-GCM envelope, or references.")
    credential_hint = models.CharField(max_length=60, blank=True, editable=False)
    credential_set_at = models.DateTimeField(null=True, blank=True, editable=False)
    allow_private = models.BooleanField(
        "private addresses",
        default=False,
        help_text="Allow addresses in private networks (a model server in your own network).",
    )
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["name"]

    def __str__(self) -> str:
        return self.name


class Strategy(models.TextChoices):
    LATENCY = "latency", "Fastest first token"
    WEIGHTED = "weighted", "By weight"
    LEAST_BUSY = "least_busy", "Fewest calls in flight"
    CHEAPEST = "cheapest", "Cheapest"
    FAILOVER = "failover", "In order of priority"


class PublicModel(models.Model):
    """The name clients ask for. Policy, limits and records speak of this name."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organization = models.ForeignKey(
        Organization,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="public_models",
        help_text="Empty: everyone's.",
    )
    name = models.CharField(max_length=200)
    aliases = models.JSONField(default=list, blank=True, help_text="Other names that mean this model.")
    display_name = models.CharField(max_length=200, blank=True)
    description = models.TextField(blank=True)
    input_token_limit = models.PositiveIntegerField(default=1_048_576, help_text="Tokens.")
    output_token_limit = models.PositiveIntegerField(default=65_536, help_text="Tokens.")
    strategy = models.CharField(max_length=12, choices=Strategy.choices, default=Strategy.LATENCY)
    fallback_models = models.JSONField(
        default=list, blank=True, help_text="Models to try when every deployment is out."
    )
    retry_empty = models.BooleanField("retry empty answers", default=False)
    strict_fields = models.BooleanField(default=False, help_text="Refuse a call rather than leave out a field.")
    unpriced = models.CharField(
        max_length=6,
        choices=[("refuse", "Refuse under a spend limit"), ("serve", "Serve, and mark the record")],
        default="refuse",
        help_text="What to do when the price is not known.",
    )
    first_byte_timeout = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0.1)], help_text="Seconds."
    )
    idle_timeout = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0.1)], help_text="Seconds between chunks."
    )
    total_timeout = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.1)], help_text="Seconds.")
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["name"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["organization", "name"], name="model_name_per_organization"),
            models.UniqueConstraint(
                fields=["name"], condition=models.Q(organization__isnull=True), name="model_name_for_everyone"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Deployment(models.Model):
    """One way to answer a public model: a connection, and the name the model has over there."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model = models.ForeignKey(PublicModel, models.CASCADE, related_name="deployments")
    connection = models.ForeignKey(Connection, models.PROTECT, related_name="deployments")
    upstream_model = models.CharField(max_length=200)
    base_model = models.CharField(
        max_length=200,
        blank=True,
        help_text="What it really is, when the upstream name does not tell (Azure). Prices and abilities follow it.",
    )
    options = models.JSONField(default=dict, blank=True)
    capabilities = models.JSONField(
        default=dict, blank=True, help_text="What differs from the shipped table for this model."
    )
    weight = models.PositiveIntegerField(default=1)
    priority = models.PositiveIntegerField(default=0, help_text="Lower is tried first.")
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveIntegerField(null=True, blank=True)
    max_parallel = models.PositiveIntegerField(null=True, blank=True)
    connect_timeout = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0.1)], help_text="Seconds."
    )
    first_byte_timeout = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0.1)], help_text="Seconds."
    )
    idle_timeout = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0.1)], help_text="Seconds between chunks."
    )
    total_timeout = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.1)], help_text="Seconds.")
    exact_token_count = models.BooleanField(default=False, help_text="Ask the vendor when a client counts tokens.")
    enabled = models.BooleanField(default=True)
    draining = models.BooleanField(default=False, help_text="Finish what runs, take nothing new.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar[list[str]] = ["priority", "created_at"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["model", "connection", "upstream_model"], name="deployment_once"),
        ]

    def __str__(self) -> str:
        return f"{self.upstream_model} at {self.connection}"
