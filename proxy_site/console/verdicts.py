"""What the gateway would say to a call of a key, check by check, and why. Nobody is called, nothing is counted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from keys import limits, policy
from keys.context import KeyContext, LimitRule
from routing.catalog import Catalog, ModelEntry
from usage import prices


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check. ok None: it was not made, because what it needs was not given."""

    name: str
    ok: bool | None
    why: str


def of_key(context: KeyContext, address: str, action: str) -> list[Verdict]:
    """State, expiry, network and action, each on its own; in the order a call meets them."""
    found = [state(context), expiry(context), network(context, address)]
    if context.scopes is None:
        found.append(Verdict("Action", True, f"Every action is allowed, {action} too."))
    elif action in context.scopes:
        found.append(Verdict("Action", True, f"{action} is among the key's actions."))
    else:
        found.append(Verdict("Action", False, f"The key has {', '.join(sorted(context.scopes)) or 'no action'} only."))
    return found


def state(context: KeyContext) -> Verdict:
    if context.state == "active":
        return Verdict("State", True, "The key is active, and so is its organization.")
    if context.state == "suspended":
        return Verdict("State", False, "The organization is suspended.")
    return Verdict("State", False, f"The key is {context.state}.")


def expiry(context: KeyContext) -> Verdict:
    if context.expires_at is None:
        return Verdict("Expiry", True, "The key does not expire.")
    when = f"{datetime.fromtimestamp(context.expires_at, UTC):%Y-%m-%d %H:%M} UTC"
    over = context.expires_at <= time.time()
    return Verdict("Expiry", not over, f"The key expired on {when}." if over else f"The key expires on {when}.")


def network(context: KeyContext, address: str) -> Verdict:
    if context.networks is None:
        return Verdict("Network", True, "The key may be used from anywhere.")
    ranges = ", ".join(map(str, context.networks)) or "nowhere"
    if not address:
        return Verdict("Network", None, f"Only from {ranges}. Give an address to check it.")
    inside = policy.within(context, address)
    return Verdict("Network", inside, f"{address} is {'' if inside else 'not '}within {ranges}.")


def of_model(context: KeyContext, name: str) -> Verdict:
    """Whether the key's patterns let it use this model, and which pattern says so. name: aliases resolved."""
    denied = next((pattern for pattern in context.denied_models if policy.matches(pattern, name)), None)
    if denied is not None:
        return Verdict(name, False, f"Denied by “{denied}”; deny beats allow.")
    if context.allowed_models is None:
        return Verdict(name, True, "The key may use every model.")
    allowed = next((pattern for pattern in context.allowed_models if policy.matches(pattern, name)), None)
    if allowed is not None:
        return Verdict(name, True, f"Allowed by “{allowed}”.")
    listed = ", ".join(f"“{pattern}”" for pattern in context.allowed_models[:4])
    return Verdict(name, False, f"None of {listed} covers it." if listed else "The key may use no model.")


def of_place(model: ModelEntry) -> Verdict:
    """Whether anybody could answer, and whether a price is known where one is needed."""
    if not model.deployments:
        return Verdict("Deployments", False, "The model has no enabled deployment.")
    unpriced = [each.name for each in model.deployments if prices.card(each) is None]
    count = len(model.deployments)
    said = f"{count} deployment{'s' if count > 1 else ''} could answer."
    if unpriced and model.unpriced == "refuse":
        return Verdict(
            "Deployments", True, f"{said} No price is known for {', '.join(unpriced[:3])}: refused under a spend limit."
        )
    return Verdict("Deployments", True, said)


def binding(context: KeyContext, model: str) -> tuple[LimitRule, ...]:
    return limits.rules_for(context, model)


def resolved(catalog: Catalog, context: KeyContext, name: str) -> ModelEntry | None:
    return catalog.resolve(name, context.organization_id)
