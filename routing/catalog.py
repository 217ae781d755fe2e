"""The immutable snapshot every process routes by. A change makes a new one; nobody edits one.

`Catalog.resolve` is what the rest of a call goes by: aliases end here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from routing.backends.base import Action, Backend, Endpoint


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. connect, first_byte (until the answer's head and first bytes): for all tries of a call together; one try
    takes at most half of connect. idle: between chunks; total: the whole call."""

    connect: float
    first_byte: float
    idle: float
    total: float


@dataclass(frozen=True, slots=True)
class DeploymentEntry:
    """One deployment as the router sees it. Ids are strings. `version` changes whenever anything here does."""

    id: str
    name: str  # "gpt-4o at openai-main"
    model: str  # the public model's name
    connection: str
    kind: str
    backend: Backend
    endpoint: Endpoint
    upstream_model: str
    base_model: str
    timeouts: Timeouts
    weight: int = 1
    priority: int = 0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_parallel: int | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    exact_token_count: bool = False
    draining: bool = False
    version: str = ""

    @property
    def language(self) -> str:
        return self.backend.speaks(self.endpoint)

    @property
    def actions(self) -> frozenset[Action]:
        """What it can be asked."""
        return self.backend.able(self.endpoint)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A public model, its names and its deployments (enabled ones only), in order of priority."""

    id: str
    name: str
    organization_id: str | None
    aliases: tuple[str, ...] = ()
    display_name: str = ""
    description: str = ""
    input_token_limit: int = 1_048_576
    output_token_limit: int = 65_536
    strategy: str = "latency"
    fallbacks: tuple[str, ...] = ()
    retry_empty: bool = False
    strict_fields: bool = False
    unpriced: Literal["refuse", "serve"] = "refuse"
    deployments: tuple[DeploymentEntry, ...] = ()


class Catalog:
    """All models of all organizations. An organization's own model goes before everyone's of the same name."""

    def __init__(
        self, models: tuple[ModelEntry, ...] = (), version: int = 0, unusable: Mapping[str, str] | None = None
    ) -> None:
        """unusable: ids of enabled deployments that were left out, and why."""
        self.version = version
        self.models = models
        self.unusable = unusable or {}
        self._by_name: dict[tuple[str | None, str], ModelEntry] = {}
        for model in models:
            for alias in model.aliases:
                self._by_name.setdefault((model.organization_id, alias), model)
        for model in models:  # a real name goes before anybody's alias
            self._by_name[(model.organization_id, model.name)] = model
        self.deployments: dict[str, DeploymentEntry] = {
            deployment.id: deployment for model in models for deployment in model.deployments
        }

    def resolve(self, name: str, organization_id: str) -> ModelEntry | None:
        """The model a client of this organization means by `name`, or None."""
        return self._by_name.get((organization_id, name)) or self._by_name.get((None, name))

    def visible(self, organization_id: str) -> list[ModelEntry]:
        """Every model this organization could ask for, by name."""
        found = {model.name: model for model in self.models if model.organization_id is None}
        found |= {model.name: model for model in self.models if model.organization_id == organization_id}
        return [found[name] for name in sorted(found)]
