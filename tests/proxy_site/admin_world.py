"""Two tenants with one of everything, and somebody of every role in the first."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from asgiref.sync import async_to_sync
from django.db.models import Model
from django.utils import timezone

from keys import audit
from keys.models import Invitation, Membership, Organization, Team, User
from lib.ids import uuid7
from routing import credentials
from tests.factories import (
    make_connection,
    make_key,
    make_limit,
    make_model,
    make_organization,
    make_person,
    make_platform_admin,
    make_team,
)
from usage import bodies
from usage.models import PriceOverride, RequestRecord, StoredBody, UsageBucket

ROLES = ("platform", "owner", "admin", "member", "viewer", "team_admin", "team_member", "nobody")


@dataclass
class Tenant:
    """One of everything that belongs to an organization. Every name holds `mark`, so that a page shows whose it is."""

    mark: str
    organization: Organization
    team: Team
    rows: dict[str, Model] = field(default_factory=dict)


@dataclass
class World:
    acme: Tenant
    globex: Tenant
    people: dict[str, User]


def make_world() -> World:
    acme, globex = make_tenant("acme"), make_tenant("globex")
    roles = Membership.Role
    people = {
        "platform": make_platform_admin(),
        "owner": make_person("owner", acme.organization, roles.OWNER),
        "admin": make_person("admin", acme.organization, roles.ADMIN),
        "member": make_person("member", acme.organization, roles.MEMBER),
        "viewer": make_person("viewer", acme.organization, roles.VIEWER),
        "team_admin": make_person("team-admin", acme.organization, roles.ADMIN, acme.team),
        "team_member": make_person("team-member", acme.organization, roles.MEMBER, acme.team),
        "nobody": make_person("nobody"),
    }
    return World(acme, globex, people)


def make_tenant(mark: str) -> Tenant:
    organization = make_organization(mark, name=f"{mark} organization")
    team = make_team(organization, f"{mark}-team", name=f"{mark} team")
    tenant = Tenant(mark, organization, team)
    key = make_key(organization, f"{mark}-key", team=team).key
    connection = make_connection("openai", name=f"{mark}-connection", organization=organization)
    model = make_model(f"{mark}-model", [connection], organization=organization)
    deployment = model.deployments.get()
    person = make_person(f"{mark}-person", organization, Membership.Role.MEMBER, team, password=None)  # type: ignore[arg-type]  # cannot sign in
    owner = make_person(f"{mark}-owner", organization, Membership.Role.OWNER, password=None)  # type: ignore[arg-type]  # as above
    make_limit(key, "requests", 10, period="minute")
    price = PriceOverride.objects.create(deployment_id=str(deployment.pk), valid_from=timezone.now(), input=1, output=2)
    event = audit.record(audit.SYSTEM, "team.created", team, {}, organization.pk)
    record = make_record(tenant, key=f"{mark}-key", key_id=str(key.pk))
    tenant.rows = {
        "keys.organization": organization,
        "keys.team": team,
        "keys.membership": person.memberships.get(),
        "keys.user": person,
        "keys.invitation": Invitation.objects.create(
            email=f"{mark}-invited@example.org",
            organization=organization,
            team=team,
            created_by=owner,
            expires_at=timezone.now() + timedelta(days=7),
        ),
        "keys.virtualkey": key,
        "keys.auditevent": event,
        "routing.connection": connection,
        "routing.publicmodel": model,
        "routing.deployment": deployment,
        "usage.requestrecord": record,
        "usage.storedbody": make_body(record, f"a question of {mark}"),
        "usage.priceoverride": price,
    }
    make_bucket(tenant, key=f"{mark}-key", key_id=str(key.pk))
    return tenant


def names(tenant: Tenant) -> dict[str, Any]:
    return {
        "organization_id": str(tenant.organization.pk),
        "organization": tenant.organization.name,
        "team_id": str(tenant.team.pk),
        "team": tenant.team.name,
        "model": f"{tenant.mark}-model",
        "deployment": f"{tenant.mark}-model at {tenant.mark}-connection",
        "action": "generateContent",
    }


def make_record(tenant: Tenant, **fields: Any) -> RequestRecord:
    now = timezone.now()
    made = {"id": uuid7(int(now.timestamp() * 1000)), "started_at": now, "http_status": 200, "status": "OK"}
    return RequestRecord.objects.create(**{**made, **names(tenant), **fields})


def make_body(record: RequestRecord, text: str, *, answer: str = '{"candidates": []}') -> StoredBody:
    """What was kept of this call, as usage.bodies seals it."""
    request = b'{"contents": [{"parts": [{"text": "%b"}]}]}' % text.encode()
    handed = bodies.Handed(str(record.pk), record.organization_id, record.key_id, 0, request, answer.encode(), True)
    sealed = credentials.seal_text(
        bodies.PURPOSE, handed.call_id, bodies.plain(handed, 10_000), organization=handed.organization_id
    )
    return StoredBody.objects.create(
        call_id=record.pk,
        organization_id=record.organization_id,
        key_id=record.key_id,
        at=record.started_at,
        sealed=sealed,
    )


def content_of(response: Any) -> str:
    """The text of a response, also of a streamed one: those are asynchronous, as the server needs them."""

    async def whole() -> bytes:
        return b"".join([piece async for piece in response.streaming_content])

    return (async_to_sync(whole)() if response.streaming else response.content).decode()


def make_bucket(tenant: Tenant, **fields: Any) -> list[UsageBucket]:
    """The same call in rows of every width."""
    now = timezone.now()
    starts = {
        60: now.replace(second=0, microsecond=0),
        900: now.replace(minute=now.minute - now.minute % 15, second=0, microsecond=0),
        86400: now.replace(hour=0, minute=0, second=0, microsecond=0),
    }
    sums = {"status": "OK", "requests": 1, "cost_nano": 5_000_000, "prompt_tokens": 10}
    return [
        UsageBucket.objects.create(width=width, start=start, **{**names(tenant), **sums, **fields})
        for width, start in starts.items()
    ]
