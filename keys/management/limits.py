"""What the commands about limits share: on whom, and how a limit is shown."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from keys.limiting import Subject
from keys.management import wording
from keys.models import Limit


def add_subject(parser: CommandParser) -> None:
    parser.add_argument("--organization", metavar="SLUG", help="The organization, or the one of --team.")
    parser.add_argument("--team", metavar="SLUG", help="One of the organization's teams.")
    parser.add_argument("--key", metavar="ID", help="A key.")


def subject(options: dict[str, Any]) -> Subject:
    if options["key"]:
        return wording.key(options["key"])
    if not options["organization"]:
        raise CommandError("Say on whom: --key ID, --organization SLUG, or --organization SLUG --team SLUG.")
    organization = wording.organization(options["organization"])
    return wording.team(options["team"], organization) if options["team"] else organization


def row(limit: Limit) -> dict[str, Any]:
    kind, holder = next((kind, found) for kind in ("key", "team", "organization") if (found := getattr(limit, kind)))
    organization = holder if kind == "organization" else holder.organization
    return {
        "id": str(limit.pk),
        "organization": organization.slug,
        "subject": kind,
        "subject_id": str(holder.pk),
        "subject_name": holder.name,
        "metric": limit.metric,
        "period": None if limit.metric == Limit.Metric.CONCURRENT else limit.period,
        "amount": f"{limit.amount.normalize():f}",
        "models": limit.pattern,
        "hard": limit.hard,
    }


def line(row: dict[str, Any]) -> str:
    period = f" per {row['period']}" if row["period"] not in (None, "lifetime") else f" {row['period'] or ''}".rstrip()
    unit = "USD" if row["metric"] == "spend" else "concurrent calls" if row["metric"] == "concurrent" else row["metric"]
    soft = "" if row["hard"] else ", only warns"
    return (
        f"{row['id']}  {row['organization']}  {row['subject']} {row['subject_name']}  "
        f"{row['amount']} {unit}{period} for {row['models']}{soft}"
    )
