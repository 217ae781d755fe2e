"""Rows into the catalog, and the catalog's swap: who asks for `current()` waits for nothing.

A change of rows is announced on the bus ("catalog"); every process then reads anew, off its event loop, and swaps.
While the database cannot be read the old catalog stays. One bad row costs its own deployment, never the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection
from django.db.models import Prefetch

from keys.models import ChangeVersion
from lib import bus, json
from lib.background import Following
from routing import addresses, credentials
from routing.backends import BACKENDS
from routing.backends.base import BadOption, Endpoint
from routing.catalog import Catalog, DeploymentEntry, ModelEntry, Timeouts
from routing.models import Connection, Deployment, PublicModel

log = logging.getLogger(__name__)

TOPIC = "catalog"
RETRY = 2.0  # seconds until the next try when the database could not be read


class Unusable(Exception):
    """This deployment cannot be used, and why: a sentence for an operator."""


# ---- the one catalog of this process


def current() -> Catalog:
    """The catalog. Loaded on first use where nobody called `open` (tests, commands)."""
    if _loader.catalog is None or (_loader.stale and not _loader.is_open):
        _loader.load_now()
    assert _loader.catalog is not None
    return _loader.catalog


async def open() -> None:
    """Load, then follow the notices. Raises when there is no catalog to begin with (database gone)."""
    await _loader.open()


async def close() -> None:
    await _loader.close()


async def reload() -> None:
    """Read anew now. Raises when that fails; the old catalog then stays."""
    await _loader.reload()


def forget() -> None:
    """Drop what is loaded: the next `current()` reads anew."""
    _loader.catalog = None


class _Loader:
    def __init__(self) -> None:
        self.catalog: Catalog | None = None
        self.stale = False
        self.is_open = False
        self._following = Following("routing.catalog", self.reload, again=RETRY)
        self._unsubscribe: Callable[[], None] | None = None
        self._lock = threading.Lock()

    async def open(self) -> None:
        self._subscribe()
        self.is_open = True
        try:
            await self.reload()
        except BaseException:
            self.is_open = False
            raise
        await self._following.open()

    async def close(self) -> None:
        self.is_open = False
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await self._following.close()
        self.catalog = None

    async def reload(self) -> None:
        """Raises what the database raises; the old catalog stays then, because it is better than none."""
        self.stale = False
        try:
            self.catalog = await asyncio.to_thread(_load_and_hang_up)
        except BaseException:
            self.stale = True
            raise

    def load_now(self) -> None:
        """Lazily, without `open`. From a running loop in a thread, because the ORM refuses to work there."""
        with self._lock:
            self._subscribe()
            self.stale = False
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                self.catalog = load()
                return
            with ThreadPoolExecutor(1) as thread:
                self.catalog = thread.submit(_load_and_hang_up).result()

    def _subscribe(self) -> None:
        if self._unsubscribe is None:
            self._unsubscribe = bus.subscribe(TOPIC, self._noticed)

    def _noticed(self, subject: str) -> None:
        """From any thread."""
        self.stale = True
        self._following.notice()


_loader = _Loader()


def _load_and_hang_up() -> Catalog:
    """`load` for a thread that is not Django's: nobody else would give the connection back.

    Also where the kinds in use import what they need: the first call of a kind would do it on the event loop.
    """
    close_old_connections()
    try:
        found = load()
    finally:
        connection.close()
    for kind in {entry.kind for entry in found.deployments.values()}:
        BACKENDS[kind].warm_up()
    return found


# ---- rows into entries


def load() -> Catalog:
    """Read all rows. Blocking. Raises django.db.Error."""
    version = ChangeVersion.objects.filter(topic=TOPIC).values_list("version", flat=True).first() or 0
    deployments = Deployment.objects.filter(enabled=True, connection__enabled=True).select_related("connection")
    rows = PublicModel.objects.filter(enabled=True).prefetch_related(
        Prefetch("deployments", deployments.order_by("priority", "created_at"))
    )
    unusable: dict[str, str] = {}
    opened: dict[Any, dict[str, str] | str] = {}
    models = tuple(_model(row, opened, unusable) for row in rows)
    return Catalog(models, version, unusable)


def _model(row: PublicModel, opened: dict[Any, dict[str, str] | str], unusable: dict[str, str]) -> ModelEntry:
    entries = []
    for deployment in row.deployments.all():
        try:
            entries.append(_deployment(row, deployment, opened))
        except Unusable as error:
            unusable[str(deployment.pk)] = str(error)
            log.error("Deployment %s of model %s cannot be used: %s", deployment, row.name, error)
    return ModelEntry(
        id=str(row.pk),
        name=row.name,
        organization_id=str(row.organization_id) if row.organization_id else None,
        aliases=tuple(str(each) for each in row.aliases or ()),
        display_name=row.display_name,
        description=row.description,
        input_token_limit=row.input_token_limit,
        output_token_limit=row.output_token_limit,
        strategy=row.strategy,
        fallbacks=tuple(str(each) for each in row.fallback_models or ()),
        retry_empty=row.retry_empty,
        strict_fields=row.strict_fields,
        unpriced="serve" if row.unpriced == "serve" else "refuse",
        deployments=tuple(entries),
    )


def _deployment(model: PublicModel, row: Deployment, opened: dict[Any, dict[str, str] | str]) -> DeploymentEntry:
    """One entry. Raises Unusable."""
    place = row.connection
    if place.organization_id is not None and place.organization_id != model.organization_id:
        raise Unusable("Its connection belongs to another organization.")
    found = endpoint(place, row, opened)
    values: dict[str, Any] = {
        "id": str(row.pk),
        "name": str(row),
        "model": model.name,
        "connection": place.name,
        "kind": place.kind,
        "backend": BACKENDS[place.kind],
        "endpoint": found,
        "upstream_model": row.upstream_model,
        "base_model": row.base_model or row.upstream_model,
        "timeouts": timeouts(row, model),
        "weight": row.weight,
        "priority": row.priority,
        "requests_per_minute": row.requests_per_minute,
        "tokens_per_minute": row.tokens_per_minute,
        "max_parallel": row.max_parallel,
        "capabilities": dict(row.capabilities or {}),
        "exact_token_count": row.exact_token_count,
        "draining": row.draining,
    }
    seen = {**values, "backend": place.kind, "headers": dict(found.headers), "scope": found.scope}
    return DeploymentEntry(**values, version=hashlib.sha256(repr(seen).encode()).hexdigest()[:16])


def endpoint(
    place: Connection, row: Deployment | None = None, opened: dict[Any, dict[str, str] | str] | None = None
) -> Endpoint:
    """Where calls through this connection go. Raises Unusable. `opened` remembers credentials of one load."""
    backend = BACKENDS.get(place.kind)
    if backend is None:
        raise Unusable(f"There is no backend of kind {place.kind!r}.")
    opened = {} if opened is None else opened
    if place.pk not in opened:
        opened[place.pk] = _open(place)
    credential = opened[place.pk]
    if isinstance(credential, str):
        raise Unusable(credential)
    options = {**_texts(place.options), **(_texts(row.options) if row else {})}
    found = Endpoint(
        kind=place.kind,
        base_url=(place.base_url or backend.base_url).rstrip("/"),
        model=row.upstream_model if row else "",
        connection_id=str(place.pk),
        options=options,
        credential=credential,
        headers={name.lower(): value for name, value in _texts(place.extra_headers).items()},
        allow_private=place.allow_private,
        scope=scope(str(place.pk), credential),
    )
    try:
        backend.check(found)
        addresses.check_url(backend.url(found, "generate").partition("?")[0], found.allow_private)
    except (BadOption, addresses.AddressRefused) as error:
        raise Unusable(str(error)) from None
    return found


def _open(place: Connection) -> dict[str, str] | str:
    try:
        return credentials.open_(place)
    except credentials.CredentialError as error:
        return str(error)


def scope(connection_id: str, credential: Mapping[str, str]) -> str:
    """Short and keyed: it goes to clients inside signatures, and must not help anybody guess a credential."""
    text = connection_id.encode() + json.canonical(dict(credential))
    return hmac.new(settings.GATEHOUSE_PEPPER.encode(), b"scope" + text, "sha256").hexdigest()[:16]


def timeouts(row: Deployment, model: PublicModel) -> Timeouts:
    """The deployment's own, else the model's, else the settings'."""
    site = settings.GATEHOUSE
    return Timeouts(
        connect=row.connect_timeout or site.upstream_connect_timeout,
        first_byte=row.first_byte_timeout or model.first_byte_timeout or site.upstream_first_byte_timeout,
        idle=row.idle_timeout or model.idle_timeout or site.upstream_idle_timeout,
        total=row.total_timeout or model.total_timeout or site.upstream_total_timeout,
    )


def _texts(options: Any) -> dict[str, str]:
    """Options as texts: YAML gives numbers and booleans, backends read texts."""
    return {str(name): _text(value) for name, value in (options or {}).items() if value is not None and value != ""}


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
