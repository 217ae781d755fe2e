"""Configuration as code: what a YAML file wants, compared with what is there, and made so.

The file is read strictly (an unknown field is refused by name), everything happens in one transaction, and applying
the same file twice changes nothing the second time. `env:NAME` is read now and sealed; `ref:NAME` lasts. The rows that
a file names are read at once and new ones are written at once, so that a file of a thousand models takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import yaml
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import models, transaction
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from keys import audit, issue, notices, secrets
from keys.audit import Actor
from keys.models import KeySecret, Limit, Organization, Team, VirtualKey
from proxy_site import env
from routing import addresses, credentials, loading
from routing.backends import BACKENDS
from routing.models import Connection, Deployment, PublicModel
from usage.models import PriceOverride

MASKED = "•••"


class ConfigurationError(Exception):
    """The file cannot be applied. The message names the place."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LimitSpec(Strict):
    metric: Literal["requests", "tokens", "concurrent", "spend"]
    period: Literal["minute", "hour", "day", "week", "month", "lifetime"] = "month"
    amount: Decimal = Field(gt=0)
    models: str = "*"
    hard: bool = True


class TeamSpec(Strict):
    slug: str
    name: str
    limits: list[LimitSpec] | None = None


class OrganizationSpec(Strict):
    slug: str
    name: str
    time_zone: str | None = None
    teams: list[TeamSpec] = []
    limits: list[LimitSpec] | None = None


class ConnectionSpec(Strict):
    name: str
    kind: str
    organization: str | None = None
    base_url: str = ""
    credential: dict[str, str | bool] | None = None
    allow_private: bool = False
    options: dict[str, str | int | float | bool] = {}
    extra_headers: dict[str, str] = {}
    enabled: bool = True


class PriceSpec(Strict):
    """USD per million tokens."""

    valid_from: AwareDatetime = datetime.fromisoformat("2020-01-01T00:00:00+00:00")
    input: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    output: Decimal
    thoughts: Decimal | None = None
    audio_input: Decimal | None = None
    image_input: Decimal | None = None
    audio_output: Decimal | None = None
    image_output: Decimal | None = None
    long_context_from: int | None = None
    long_input: Decimal | None = None
    long_cached_input: Decimal | None = None
    long_output: Decimal | None = None


class DeploymentSpec(Strict):
    connection: str
    upstream_model: str
    base_model: str = ""
    weight: int = 1
    priority: int = 0
    options: dict[str, str | int | float | bool] = {}
    capabilities: dict[str, Any] = {}
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_parallel: int | None = None
    connect_timeout: float | None = None
    first_byte_timeout: float | None = None
    idle_timeout: float | None = None
    total_timeout: float | None = None
    exact_token_count: bool = False
    enabled: bool = True
    draining: bool = False
    price: PriceSpec | None = None


class ModelSpec(Strict):
    name: str
    organization: str | None = None
    aliases: list[str] = []
    display_name: str = ""
    description: str = ""
    input_token_limit: int = 1_048_576
    output_token_limit: int = 65_536
    strategy: Literal["latency", "weighted", "least_busy", "cheapest", "failover"] = "latency"
    fallback_models: list[str] = []
    retry_empty: bool = False
    strict_fields: bool = False
    unpriced: Literal["refuse", "serve"] = "refuse"
    first_byte_timeout: float | None = None
    idle_timeout: float | None = None
    total_timeout: float | None = None
    enabled: bool = True
    deployments: list[DeploymentSpec] = []


class KeySpec(Strict):
    organization: str
    name: str
    team: str | None = None
    allowed_models: list[str] | None = None
    denied_models: list[str] = []
    scopes: list[str] | None = None
    networks: list[str] | None = None
    expires_at: AwareDatetime | None = None
    tags: list[str] = []
    strict_fields: bool = False
    log_bodies: bool = False
    outage_policy: Literal["local", "deny"] = "local"
    secret: str | None = None
    limits: list[LimitSpec] | None = None


class FileSpec(Strict):
    organizations: list[OrganizationSpec] = []
    connections: list[ConnectionSpec] = []
    models: list[ModelSpec] = []
    keys: list[KeySpec] = []


@dataclass
class Change:
    """One line of the difference. fields: name -> [before, after], secrets masked."""

    action: Literal["create", "update"]
    type: str
    name: str
    fields: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class Outcome:
    changes: list[Change] = field(default_factory=list)
    secrets: list[dict[str, str]] = field(default_factory=list)


class _DryRun(Exception):
    pass


def apply(text: str, *, actor: Actor, dry_run: bool = False) -> Outcome:
    """Make it so. Raises ConfigurationError; then nothing has changed."""
    wanted = read(text)
    outcome = Outcome()
    try:
        with transaction.atomic():
            notices.lock()
            Apply(actor, outcome, wanted).everything()
            if dry_run:
                raise _DryRun
    except _DryRun:
        outcome.secrets.clear()
    except DjangoValidationError as error:
        raise ConfigurationError("; ".join(error.messages)) from None
    except issue.IssueError as error:
        raise ConfigurationError(f"keys: {error}") from None
    return outcome


def read(text: str) -> FileSpec:
    try:
        loaded = yaml.safe_load(text) or {}
        if not isinstance(loaded, dict):
            raise ConfigurationError(f"The file must map {', '.join(FileSpec.model_fields)} to what is wanted.")
        return FileSpec.model_validate(loaded)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"This is not YAML: {error}") from None
    except ValidationError as error:
        said = [f"{'.'.join(str(step) for step in each['loc'])}: {_words(each)}" for each in error.errors()]
        raise ConfigurationError("; ".join(said)) from None


def _words(found: Any) -> str:
    return "this field is not known" if found["type"] == "extra_forbidden" else str(found["msg"])


def given(value: str, where: str) -> str:
    """A literal, or what `env:NAME` holds right now."""
    if not value.startswith("env:"):
        return value
    found = env.given(value[4:])
    if not found:
        raise ConfigurationError(f"{where}: the variable {value[4:]} is not set.")
    return found


# What identifies a row in a file.
IDENTITIES: dict[type[models.Model], tuple[str, ...]] = {
    Organization: ("slug",),
    Team: ("organization", "slug"),
    Connection: ("name",),
    PublicModel: ("name", "organization"),
    Deployment: ("model", "connection", "upstream_model"),
    PriceOverride: ("deployment_id", "valid_from"),
    VirtualKey: ("organization", "name"),
}


class Rows:
    """Every row that a file names, by its identity: those in the database, and new ones until `write`."""

    def __init__(self, wanted: FileSpec) -> None:
        self.known: dict[tuple[Any, ...], Any] = {}
        self.new: dict[type[Any], list[Any]] = {}
        owned: list[ConnectionSpec | ModelSpec | KeySpec] = [*wanted.connections, *wanted.models, *wanted.keys]
        slugs = {each.slug for each in wanted.organizations} | {each.organization or "" for each in owned}
        names = {each.name for each in wanted.models}
        connections = {each.name for each in wanted.connections}
        connections |= {each.connection for model in wanted.models for each in model.deployments}
        keys = {each.name for each in wanted.keys}
        self._read(Organization.objects.filter(slug__in=slugs))
        self._read(Team.objects.filter(organization__slug__in=slugs))
        self._read(Connection.objects.filter(name__in=connections).select_related("organization"))
        self._read(PublicModel.objects.filter(name__in=names).select_related("organization"))
        deployments = Deployment.objects.filter(model__name__in=names).select_related("model", "connection")
        self._read(deployments)
        self._read(PriceOverride.objects.filter(deployment_id__in=[str(each.pk) for each in deployments]))
        found = VirtualKey.objects.filter(organization__slug__in=slugs, name__in=keys)
        self._read(found.select_related("organization", "team"))

    def get(self, model: type[models.Model], /, **identity: Any) -> Any:
        """The row of this identity, or None."""
        values = (identity[name] for name in IDENTITIES[model])
        return self.known.get((model, *(value.pk if isinstance(value, models.Model) else value for value in values)))

    def add(self, row: models.Model) -> None:
        """A new one, which waits for `write`."""
        self._check(row)
        self.keep(row)
        self.new.setdefault(type(row), []).append(row)

    def save(self, row: models.Model) -> None:
        """It has changed. A new one still waits for `write`."""
        self._check(row)
        if not row._state.adding:
            row.save()

    def write(self) -> None:
        """New rows go to the database, those first that others refer to."""
        for model in IDENTITIES:
            if rows := self.new.pop(model, None):
                model._default_manager.bulk_create(rows)

    def keep(self, row: models.Model) -> None:
        columns = {each.name: each.attname for each in row._meta.concrete_fields}  # a row's own id, not the row
        values = (getattr(row, columns[name]) for name in IDENTITIES[type(row)])
        self.known[type(row), *values] = row

    def _read(self, rows: models.QuerySet[Any]) -> None:
        for row in rows:
            self.keep(row)

    @staticmethod
    def _check(row: models.Model) -> None:
        """Its own values. That there is no other of its identity, and what it refers to, is known already."""
        row.clean_fields(exclude=[each.name for each in row._meta.concrete_fields if each.is_relation])
        row.clean()


class Apply:
    def __init__(self, actor: Actor, outcome: Outcome, wanted: FileSpec) -> None:
        self.actor = actor
        self.outcome = outcome
        self.wanted = wanted
        self.rows = Rows(wanted)
        self.entries: list[audit.Entry] = []

    def everything(self) -> None:
        wanted = self.wanted
        for organization in wanted.organizations:
            self.organization(organization)
            self.write()  # limits are written row by row, and refer to what they limit
            self.limits_of(organization)
        for connection in wanted.connections:
            self.connection(connection)
        for model in wanted.models:
            self.model(model)
        self.write()
        self.names_are_told_apart()
        self.connections_will_do()
        for key in wanted.keys:
            self.key(key)
        touched = {change.type for change in self.outcome.changes}
        if touched & {"connection", "model", "deployment", "price"}:
            notices.announce("catalog")
        if touched & {"organization", "team", "key", "limits"}:
            notices.announce("keys")

    def write(self) -> None:
        """New rows, and the audit trail of everything since the last time."""
        self.rows.write()
        if self.entries:
            audit.record_all(self.actor, self.entries)
            self.entries = []

    # One kind of thing each

    def organization(self, spec: OrganizationSpec) -> None:
        fields: dict[str, Any] = {"name": spec.name}
        if spec.time_zone is not None:
            fields["time_zone"] = spec.time_zone
        organization = self.save(Organization, "organization", spec.slug, {"slug": spec.slug}, fields)
        for team in spec.teams:
            identity = {"organization": organization, "slug": team.slug}
            self.save(Team, "team", f"{spec.slug}/{team.slug}", identity, {"name": team.name})

    def limits_of(self, spec: OrganizationSpec) -> None:
        organization = self.rows.get(Organization, slug=spec.slug)
        self.limits(spec.limits, spec.slug, organization=organization)
        for team_spec in spec.teams:
            team = self.rows.get(Team, organization=organization, slug=team_spec.slug)
            self.limits(team_spec.limits, f"{spec.slug}/{team_spec.slug}", team=team)

    def connection(self, spec: ConnectionSpec) -> None:
        where = f"connection {spec.name}"
        backend = BACKENDS.get(spec.kind)
        if backend is None:
            raise ConfigurationError(f"{where}: kind {spec.kind!r} is not one of {', '.join(sorted(BACKENDS))}.")
        known = {option.name for option in backend.options}
        if unknown := set(spec.options) - known:
            raise ConfigurationError(f"{where}: option {', '.join(sorted(unknown))} is not known to {spec.kind}.")
        base_url = spec.base_url.rstrip("/")
        try:
            if address := base_url or backend.base_url:  # some kinds make theirs from region or location
                addresses.check_url(address, allow_private=spec.allow_private)
        except addresses.AddressRefused as refused:
            raise ConfigurationError(f"{where}: {refused}") from None
        values = self.credential(spec, where)
        fields = {
            "kind": spec.kind,
            "organization": self.find_organization(spec.organization, where),
            "base_url": base_url,
            "allow_private": spec.allow_private,
            "options": {name: _text(value) for name, value in spec.options.items()},
            "extra_headers": spec.extra_headers,
            "enabled": spec.enabled,
        }
        before = self.rows.get(Connection, name=spec.name)
        moved = before is not None and before.base_url != base_url
        held = held_by(before) if before is not None else {}
        connection = self.save(Connection, "connection", spec.name, {"name": spec.name}, fields)
        if values is not None and (values != held or moved):
            try:
                credentials.seal(connection, values)
            except credentials.CredentialError as error:
                raise ConfigurationError(f"{where}: {error}") from None
            self.rows.save(connection)
            self.note("update", "connection", spec.name, {"credential": [MASKED if held else None, MASKED]}, connection)
        elif moved and values is None and held:
            credentials.clear(connection)
            self.rows.save(connection)

    def credential(self, spec: ConnectionSpec, where: str) -> dict[str, str] | None:
        if spec.credential is None:
            return None
        fields = {each.name: each for each in BACKENDS[spec.kind].credential_fields}
        if unknown := set(spec.credential) - set(fields):
            raise ConfigurationError(f"{where}: credential {', '.join(sorted(unknown))} is not known to {spec.kind}.")
        return {name: given(_text(value), where) for name, value in spec.credential.items()}

    def model(self, spec: ModelSpec) -> None:
        where = f"model {spec.name}"
        own = spec.model_dump(exclude={"name", "organization", "deployments"})
        organization = self.find_organization(spec.organization, where)
        model = self.save(PublicModel, "model", spec.name, {"name": spec.name, "organization": organization}, own)
        for wanted in spec.deployments:
            connection = self.rows.get(Connection, name=wanted.connection)
            if connection is None:
                raise ConfigurationError(f"{where}: there is no connection {wanted.connection!r}.")
            fields = wanted.model_dump(exclude={"connection", "upstream_model", "price"})
            fields["options"] = {name: _text(value) for name, value in wanted.options.items()}
            name = f"{spec.name} → {wanted.upstream_model} at {wanted.connection}"
            identity = {"model": model, "connection": connection, "upstream_model": wanted.upstream_model}
            deployment = self.save(Deployment, "deployment", name, identity, fields)
            if wanted.price is not None:
                identity = {"deployment_id": str(deployment.pk), "valid_from": wanted.price.valid_from}
                self.save(PriceOverride, "price", name, identity, wanted.price.model_dump(exclude={"valid_from"}))

    def names_are_told_apart(self) -> None:
        """Among everybody's models, and among those of one organization, a name or alias means one model."""
        ours = {spec.name for spec in self.wanted.models}
        taken: dict[tuple[Any, str], str] = {}
        for name, aliases, organization in PublicModel.objects.values_list("name", "aliases", "organization_id"):
            for each in (name, *aliases):
                other = taken.setdefault((organization, each), name)
                if other != name and not ours.isdisjoint((name, other)):
                    raise ConfigurationError(f"model {name}: {each!r} is a name of the model {other} too.")

    def connections_will_do(self) -> None:
        """What a call would find wrong with these connections is said now. References are for the server to read, and a
        connection may wait for its credential."""
        used: dict[Any, list[Deployment]] = {}
        names = [spec.name for spec in self.wanted.connections]
        for row in Deployment.objects.filter(connection__name__in=names):
            used.setdefault(row.connection_id, []).append(row)
        for spec in self.wanted.connections:
            place = self.rows.get(Connection, name=spec.name)
            held = held_by(place)
            if any(value.startswith(credentials.REFERENCE) for value in held.values()) or not (held or spec.credential):
                continue
            rows: list[Deployment | None] = [*used.get(place.pk, [])]
            for deployment in rows or [None]:
                try:
                    loading.endpoint(place, deployment, {place.pk: held})
                except loading.Unusable as trouble:
                    raise ConfigurationError(f"connection {spec.name}: {trouble}") from None

    def key(self, spec: KeySpec) -> None:
        where = f"key {spec.organization}/{spec.name}"
        organization = self.find_organization(spec.organization, where)
        assert organization is not None
        team = None
        if spec.team is not None:
            team = self.rows.get(Team, organization=organization, slug=spec.team)
            if team is None:
                raise ConfigurationError(f"{where}: there is no team {spec.team!r} in {spec.organization}.")
        fields = {**spec.model_dump(exclude={"organization", "name", "team", "secret", "limits"}), "team": team}
        fields |= lists_of(spec, where)
        secret = given(spec.secret, where) if spec.secret else None
        if secret is not None and not secrets.well_formed(secret):
            raise ConfigurationError(
                f"{where}: the secret is not well-formed; `manage.py createkey` makes one, or leave it out."
            )
        key = self.rows.get(VirtualKey, organization=organization, name=spec.name)
        if key is None:
            try:
                key, made = issue.issue(
                    organization=organization, name=spec.name, secret=secret, actor=self.actor, **fields
                )
            except issue.IssueError as error:
                raise ConfigurationError(f"{where}: {error}") from None
            self.rows.keep(key)
            self.outcome.changes.append(Change("create", "key", f"{spec.organization}/{spec.name}"))
            if secret is None:
                self.outcome.secrets.append(
                    {"organization": spec.organization, "name": spec.name, "id": str(key.pk), "secret": made}
                )
        else:
            identity = {"organization": organization, "name": spec.name}
            self.save(VirtualKey, "key", f"{spec.organization}/{spec.name}", identity, fields)
            self.secret(key, secret, where)
        self.limits(spec.limits, f"{spec.organization}/{spec.name}", key=key)
        self.write()

    def secret(self, key: VirtualKey, secret: str | None, where: str) -> None:
        if secret is None:
            return
        fingerprint = secrets.fingerprint(secret)
        held = KeySecret.objects.filter(fingerprint=fingerprint).first()
        if held is None:
            KeySecret.objects.create(key=key, fingerprint=fingerprint, hint=secrets.hint(secret))
            self.note("update", "key", where.removeprefix("key "), {"secret": [None, MASKED]}, key)
        elif held.key_id != key.pk:
            raise ConfigurationError(f"{where}: another key already has this secret.")

    def limits(self, wanted: list[LimitSpec] | None, name: str, **subject: models.Model) -> None:
        """Exactly these limits; None leaves what is there alone. A limit that stays keeps its id, and so its counters."""
        if wanted is None:
            return
        have = list(Limit.objects.filter(**subject))
        before, after = [str(each) for each in have], []
        for spec in wanted:
            period = "minute" if spec.metric == "concurrent" else spec.period
            match = next(
                (
                    each
                    for each in have
                    if (each.metric, each.period, each.pattern) == (spec.metric, period, spec.models)
                ),
                None,
            )
            if match is not None:
                have.remove(match)
            row = match or Limit(**subject, metric=spec.metric, period=period, pattern=spec.models)
            row.amount, row.hard = spec.amount, spec.hard
            row.full_clean()
            row.save()
            after.append(str(row))
        for left in have:
            left.delete()
        if sorted(before) != sorted(after):
            owner = next(iter(subject.values()))
            self.note("update", "limits", name, {"limits": [before, after]}, owner)

    # Rows

    def save(self, model: type[Any], kind: str, name: str, identity: dict[str, Any], fields: dict[str, Any]) -> Any:
        """Create or change the one row of this identity, and note what changed."""
        try:
            return self._saved(model, kind, name, identity, fields)
        except DjangoValidationError as error:
            said = [f"{field}: {' '.join(each)}" for field, each in error.message_dict.items()]
            raise ConfigurationError(f"{kind} {name}: {'; '.join(said)}") from None

    def _saved(self, model: type[Any], kind: str, name: str, identity: dict[str, Any], fields: dict[str, Any]) -> Any:
        row = self.rows.get(model, **identity)
        if row is None:
            row = model(**identity, **fields)
            self.rows.add(row)
            self.note("create", kind, name, {}, row)
            return row
        changed = {
            field: _difference(field, getattr(row, field), value)
            for field, value in fields.items()
            if getattr(row, field) != value
        }
        if changed:
            for field in changed:
                setattr(row, field, fields[field])
            self.rows.save(row)
            self.note("update", kind, name, changed, row)
        return row

    def note(
        self, action: Literal["create", "update"], kind: str, name: str, fields: dict[str, list[Any]], row: Any
    ) -> None:
        self.outcome.changes.append(Change(action, kind, name, fields))
        organization = row if isinstance(row, Organization) else getattr(row, "organization", None)
        belongs_to = str(organization.pk) if organization is not None else ""
        self.entries.append(audit.Entry(f"{kind}.{action}d", row, fields, belongs_to))

    def find_organization(self, slug: str | None, where: str) -> Organization | None:
        if slug is None:
            return None
        found: Organization | None = self.rows.get(Organization, slug=slug)
        if found is None:
            raise ConfigurationError(f"{where}: there is no organization {slug!r}.")
        return found


def held_by(connection: Connection) -> dict[str, str]:
    """Its credential, references as they stand; what cannot be opened any more is no credential."""
    try:
        return credentials.held(connection)
    except credentials.CredentialError:
        return {}


def lists_of(spec: KeySpec, where: str) -> dict[str, list[str] | None]:
    """A key's lists as they are stored: the same whether the key is made or changed."""
    try:
        return {
            "allowed_models": None if spec.allowed_models is None else issue.patterns(spec.allowed_models),
            "denied_models": issue.patterns(spec.denied_models, "denied_models"),
            "scopes": None if spec.scopes is None else issue.known_scopes(spec.scopes),
            "networks": None if spec.networks is None else issue.ranges(spec.networks),
        }
    except issue.IssueError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _difference(field: str, before: Any, after: Any) -> list[Any]:
    """[before, after]; of headers the names, and which are new: their values authorise, too."""
    if field != "extra_headers":
        return [_text_of(before), _text_of(after)]
    return [
        dict.fromkeys(before, MASKED),
        {name: MASKED if before.get(name) == text else f"{MASKED} (new)" for name, text in after.items()},
    ]


def _text_of(value: Any) -> Any:
    if isinstance(value, models.Model | datetime | Decimal):
        return str(value)
    return value
