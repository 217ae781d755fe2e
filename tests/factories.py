"""Rows for tests, made the way the product makes them. Every function asks only for what its test is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from keys.audit import Actor
from keys.issue import issue
from keys.models import Limit, Membership, Organization, Team, User, VirtualKey
from routing import credentials
from routing.models import Connection, Deployment, PublicModel

_numbers = count(1)

PASSWORD = "correct-horse-battery"


@dataclass(frozen=True)
class IssuedKey:
    """A virtual key and its secret, which only its issuer ever sees."""

    key: VirtualKey
    secret: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"x-goog-api-key": self.secret}


def make_organization(slug: str = "", **fields: Any) -> Organization:
    slug = slug or f"organization-{next(_numbers)}"
    return Organization.objects.create(**{"slug": slug, "name": slug.capitalize(), **fields})


def make_team(organization: Organization, slug: str = "search", **fields: Any) -> Team:
    return Team.objects.create(**{"organization": organization, "slug": slug, "name": slug.capitalize(), **fields})


def make_person(
    name: str,
    organization: Organization | None = None,
    role: str = Membership.Role.MEMBER,
    team: Team | None = None,
    *,
    password: str = PASSWORD,
    **fields: Any,
) -> User:
    """Somebody who can sign in with PASSWORD, and a member of the organization if one is given."""
    person = User.objects.create_user(email=f"{name}@example.org", password=password, **{"is_staff": True, **fields})
    if organization is not None:
        Membership.objects.create(user=person, organization=organization, team=team, role=role)
    return person


def make_platform_admin(name: str = "root", *, password: str = PASSWORD) -> User:
    return User.objects.create_superuser(email=f"{name}@example.org", password=password)


def make_key(organization: Organization, name: str = "", **fields: Any) -> IssuedKey:
    """Issued through `keys.issue`; `fields` are its keyword arguments."""
    actor = fields.pop("actor", None) or Actor(id="", name="tests", source="command", address="")
    key, secret = issue(organization=organization, name=name or f"key-{next(_numbers)}", actor=actor, **fields)
    return IssuedKey(key, secret)


def make_limit(subject: Organization | Team | VirtualKey, metric: str, amount: object, **fields: Any) -> Limit:
    """A limit on a key, a team or an organization; `amount` in whole units, or USD for spend."""
    place = {Organization: "organization", Team: "team", VirtualKey: "key"}[type(subject)]
    return Limit.objects.create(**{place: subject, "metric": metric, "amount": amount, **fields})


def make_connection(
    kind: str = "gemini",
    base_url: str = "",
    *,
    credential: Mapping[str, str] | None = None,
    name: str = "",
    allow_private: bool = True,
    **fields: Any,
) -> Connection:
    """A connection with its credential sealed. Private addresses are allowed: upstreams of tests are on loopback."""
    connection = Connection.objects.create(
        kind=kind,
        base_url=base_url,
        name=name or f"{kind}-{next(_numbers)}",
        allow_private=allow_private,
        **fields,
    )
    credentials.seal(connection, dict(credential or {"api_key": "upstream-key"}))
    connection.save()
    return connection


def make_model(
    name: str, deployments: Sequence[Deployment | Connection] = (), *, upstream_model: str = "", **fields: Any
) -> PublicModel:
    """A public model; each connection given becomes a deployment of it."""
    model = PublicModel.objects.create(name=name, **fields)
    for place in deployments:
        if isinstance(place, Connection):
            make_deployment(model, place, upstream_model or name)
        else:
            place.model = model
            place.save()
    return model


def make_deployment(model: PublicModel, connection: Connection, upstream_model: str = "", **fields: Any) -> Deployment:
    return Deployment.objects.create(
        model=model, connection=connection, upstream_model=upstream_model or model.name, **fields
    )
