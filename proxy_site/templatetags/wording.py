"""How the admin calls things: the sidebar's words, in titles, buttons and empty lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import template

register = template.Library()


@dataclass(frozen=True, slots=True)
class Words:
    """one, many: the noun. empty: why the list is empty and what to do about it."""

    one: str
    many: str
    empty: str


WORDS = {
    "virtualkey": Words(
        "key", "Virtual keys", "A key lets one client in: it says whose it is, which models it may use and how much."
    ),
    "organization": Words(
        "organization", "Organizations", "Keys, teams, limits and the bill belong to an organization: make the first."
    ),
    "team": Words("team", "Teams", "A team is a part of an organization with keys, people and limits of its own."),
    "membership": Words(
        "member", "Members", "Whoever belongs to an organization or a team, and as what. Somebody new is invited."
    ),
    "invitation": Words(
        "invitation", "Invitations", "Invite somebody by mail or with a link; it says what they will be here."
    ),
    "user": Words("person", "People", "Everybody who can sign in to this admin."),
    "publicmodel": Words(
        "model", "Models", "A model is the name clients ask for. Behind it are the deployments that answer."
    ),
    "deployment": Words(
        "deployment", "Deployments", "A deployment is one upstream model at one connection. It is part of a model."
    ),
    "connection": Words(
        "connection", "Connections", "A connection is your account at a provider: its address and its credential."
    ),
    "priceoverride": Words(
        "price", "Prices", "The built-in table knows the usual models. A price here wins for its deployment, from a date on."
    ),
    "requestrecord": Words("request", "Requests", "Every call leaves a record here, about a second after it ended."),
    "auditevent": Words("entry", "Audit log", "Every change of a key, limit, member, connection or model shows up here."),
}  # fmt: skip
BY_PLURAL = {
    "virtual keys": "virtualkey", "memberships": "membership", "users": "user", "public models": "publicmodel",
    "price overrides": "priceoverride", "request records": "requestrecord", "audit events": "auditevent",
}  # fmt: skip


@register.filter
def one(opts: Any) -> str:
    """What a row of this model is called."""
    known = WORDS.get(opts.model_name)
    return known.one if known else str(opts.verbose_name)


@register.filter
def empty(opts: Any) -> str:
    """What an empty list of this model says."""
    known = WORDS.get(opts.model_name)
    return known.empty if known else ""


@register.filter
def crumbs(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The way to a page without its room, which is no page of ours; lists by their name in the sidebar."""
    kept = parts[1:] if len(parts) > 1 else parts
    if not kept or "link" not in kept[0]:
        return kept
    name = str(kept[0]["title"])
    title = WORDS[BY_PLURAL[name]].many if name in BY_PLURAL else name[:1].upper() + name[1:]
    return [{**kept[0], "title": title}, *kept[1:]]
