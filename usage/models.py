"""What happened, and what it cost: one record per call, and the roll-ups every page reads.

No foreign keys: records keep ids and names, and outlive what they name. Money is whole nano-dollars (10^-9 USD).
"""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from lib.ids import uuid7
from usage import histogram


class RequestRecord(models.Model):
    """One call. Range-partitioned by its UUIDv7 id on PostgreSQL (first migration), a plain table on SQLite."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    started_at = models.DateTimeField()
    organization_id = models.CharField(max_length=40)
    organization = models.CharField(max_length=100)
    team_id = models.CharField(max_length=40, blank=True)
    team = models.CharField(max_length=100, blank=True)
    key_id = models.CharField(max_length=40)
    key = models.CharField(max_length=100)
    owner = models.CharField(max_length=254, blank=True)
    action = models.CharField(max_length=30)
    stream = models.BooleanField(default=False)
    requested_model = models.CharField(max_length=200, blank=True)
    model = models.CharField(max_length=200)
    deployment_id = models.CharField(max_length=40, blank=True)
    deployment = models.CharField(max_length=320, blank=True)
    connection = models.CharField(max_length=100, blank=True)
    backend = models.CharField(max_length=40, blank=True)
    upstream_model = models.CharField(max_length=200, blank=True)
    http_status = models.PositiveSmallIntegerField()
    status = models.CharField(max_length=24, help_text="Google's status word; OK for success.")
    error = models.TextField(blank=True)
    finish_reason = models.CharField(max_length=40, blank=True)
    prompt_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0)
    tool_use_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0, help_text="Visible output, without thoughts.")
    thoughts_tokens = models.BigIntegerField(default=0)
    audio_prompt_tokens = models.BigIntegerField(default=0)
    image_prompt_tokens = models.BigIntegerField(default=0)
    audio_output_tokens = models.BigIntegerField(default=0)
    image_output_tokens = models.BigIntegerField(default=0)
    cost_nano = models.BigIntegerField(null=True, blank=True, help_text="Nano-dollars; null when unpriced.")
    price_version = models.CharField(max_length=80, blank=True)
    ttft_ms = models.PositiveIntegerField(null=True, blank=True)
    total_ms = models.PositiveIntegerField(default=0)
    attempts = models.JSONField(default=list)
    dropped = models.JSONField(default=list)
    client = models.CharField(max_length=200, blank=True)
    address = models.CharField(max_length=45, blank=True)
    label = models.CharField(max_length=100, blank=True, help_text="The end user, when the client says.")
    tags = models.JSONField(default=list)
    flags = models.JSONField(default=list)
    limit_ids = models.JSONField(default=list, help_text="The limits this call was counted in.")

    class Meta:
        ordering: ClassVar[list[str]] = ["-id"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["organization_id", "-id"], name="record_by_organization"),
            models.Index(fields=["key_id", "-id"], name="record_by_key"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class UsageBucket(models.Model):
    """Sums over one span of time for one combination of names. Outlives the raw records.

    width: seconds, 60 (kept a few days), 900 or 86,400 (kept for good); every reader filters by it, and on PostgreSQL
    each has a partition of its own. start: UTC, a multiple of width.
    ttft_00 to ttft_25, total_00 to total_25: counts per bound of histogram.BOUNDS_MS, so that percentiles can be added up
    (a column each, because a database sums columns many times faster than what lies inside JSON). NULL is none.
    """

    id = models.BigAutoField(primary_key=True)
    width = models.PositiveIntegerField()
    start = models.DateTimeField()
    organization_id = models.CharField(max_length=40)
    organization = models.CharField(max_length=100)
    team_id = models.CharField(max_length=40, blank=True)
    team = models.CharField(max_length=100, blank=True)
    key_id = models.CharField(max_length=40)
    key = models.CharField(max_length=100)
    owner = models.CharField(max_length=254, blank=True)
    model = models.CharField(max_length=200)
    deployment_id = models.CharField(max_length=40, blank=True)
    deployment = models.CharField(max_length=320, blank=True)
    backend = models.CharField(max_length=40, blank=True)
    action = models.CharField(max_length=30)
    status = models.CharField(max_length=24)
    label = models.CharField(max_length=100, blank=True)
    requests = models.BigIntegerField(default=0)
    streams = models.BigIntegerField(default=0)
    unpriced = models.BigIntegerField(default=0)
    estimated = models.BigIntegerField(default=0)
    prompt_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0)
    tool_use_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    thoughts_tokens = models.BigIntegerField(default=0)
    cost_nano = models.BigIntegerField(default=0)
    total_ms = models.BigIntegerField(default=0)
    ttft_ms = models.BigIntegerField(default=0)
    ttft_count = models.BigIntegerField(default=0)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=[
                    "width", "start", "organization_id", "team_id", "key_id", "model", "deployment_id", "action", "status", "label",
                ],
                name="bucket_once",
            ),
        ]  # fmt: skip
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["organization_id", "width", "start"], name="bucket_by_organization"),
            models.Index(fields=["width", "start"], name="bucket_by_start"),
        ]

    def __str__(self) -> str:
        return f"{self.start} {self.key} {self.model}"

    @property
    def ttft_histogram(self) -> list[int]:
        return [getattr(self, name) or 0 for name in histogram.columns("ttft")]

    @property
    def total_histogram(self) -> list[int]:
        return [getattr(self, name) or 0 for name in histogram.columns("total")]


for _name in (*histogram.columns("ttft"), *histogram.columns("total")):
    UsageBucket.add_to_class(_name, models.IntegerField(null=True))


class PriceOverride(models.Model):
    """What one deployment's tokens really cost, from a date on. Always wins over the built-in table. USD per million tokens."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    deployment_id = models.CharField(max_length=40, db_index=True)
    valid_from = models.DateTimeField()
    input = models.DecimalField(max_digits=14, decimal_places=6)
    cached_input = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)
    cache_write = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)
    output = models.DecimalField(max_digits=14, decimal_places=6)
    thoughts = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)
    audio_input = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)
    image_input = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)
    audio_output = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)
    image_output = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)
    long_context_from = models.PositiveIntegerField(
        null=True, blank=True, help_text="Prompt tokens above which the long prices hold."
    )
    long_input = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)
    long_cached_input = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)
    long_output = models.DecimalField(max_digits=14, decimal_places=6, null=True, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-valid_from"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["deployment_id", "valid_from"], name="price_once"),
        ]

    def __str__(self) -> str:
        return f"{self.deployment_id} from {self.valid_from:%Y-%m-%d}"


class LimitEvent(models.Model):
    """A limit that reached 80, 95 or 100 % in one of its periods: raised once, then told to webhook and mail."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    limit_id = models.CharField(max_length=40)
    organization_id = models.CharField(max_length=40)
    period_key = models.CharField(max_length=40, help_text="Which period: 2026-11, 2026-11-25 ...")
    threshold = models.PositiveSmallIntegerField(help_text="Percent.")
    used = models.BigIntegerField()
    amount = models.BigIntegerField()
    at = models.DateTimeField()
    told_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    error = models.TextField(blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["limit_id", "period_key", "threshold"], name="limit_event_once"),
        ]

    def __str__(self) -> str:
        return f"{self.limit_id} {self.threshold} %"


class QuarantinedEvent(models.Model):
    """A spool line the ledger could not take. Kept whole, so that nothing is lost."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField()
    reason = models.CharField(max_length=300)
    line = models.TextField()

    def __str__(self) -> str:
        return self.reason


class StoredBody(models.Model):
    """Request and answer of one call, sealed, only for keys that ask for it, with its own retention."""

    call_id = models.UUIDField(primary_key=True)
    organization_id = models.CharField(max_length=40, db_index=True)
    key_id = models.CharField(max_length=40, db_index=True)
    at = models.DateTimeField(db_index=True)
    sealed = models.TextField()

    def __str__(self) -> str:
        return str(self.call_id)


class SavedView(models.Model):
    """A person's saved state of the usage explorer: a name and a query string."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user_id = models.CharField(max_length=40, db_index=True)
    name = models.CharField(max_length=100)
    query = models.TextField()

    def __str__(self) -> str:
        return self.name
