"""Which groups of a single sign-on provider mean which roles here (GATEHOUSE_OIDC_ROLES). Pure: text in, roles out.

    {"gatehouse-admins": "superuser", "acme-staff": "acme:member", "acme-leads": ["acme:admin", "acme/search:owner"]}

A role is `superuser`, or `organization:role`, or `organization/team:role`, by their slugs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

SUPERUSER: Final = "superuser"
ORDER: Final = ("viewer", "member", "admin", "owner")  # the lowest first
_ROLE: Final = re.compile(r"(?P<organization>[-\w]+)(/(?P<team>[-\w]+))?:(?P<role>viewer|member|admin|owner)", re.ASCII)

Place = tuple[str, str]  # slugs of an organization and one of its teams; "" for all of it


@dataclass(frozen=True)
class Roles:
    """What somebody's groups give: platform admin or not, and one role a place."""

    superuser: bool = False
    places: Mapping[Place, str] = field(default_factory=lambda: MappingProxyType({}))

    def __bool__(self) -> bool:
        return self.superuser or bool(self.places)


def parse(text: str) -> dict[str, list[str]]:
    """Group: roles. Raises ValueError with a sentence that says what would be right."""
    try:
        given = json.loads(text) if text.strip() else {}
    except ValueError:
        raise ValueError('it must be a JSON object such as {"group": "organization:role"}') from None
    if not isinstance(given, dict):
        raise ValueError('it must be a JSON object such as {"group": "organization:role"}')
    found = {group: [roles] if isinstance(roles, str) else roles for group, roles in given.items()}
    for group, roles in found.items():
        if not isinstance(roles, list) or not roles:
            raise ValueError(f"{group!r} must name a role, or a list of them")
        for role in roles:
            if role != SUPERUSER and not (isinstance(role, str) and _ROLE.fullmatch(role)):
                raise ValueError(
                    f"{role!r} of {group!r} is no role: superuser, organization:role or organization/team:role,"
                    f" with a role of {', '.join(ORDER)}"
                )
    return found


def roles_of(groups: Collection[str], mapping: Mapping[str, list[str]]) -> Roles:
    """What these groups give together: of several roles in one place the highest."""
    superuser, places = False, dict[Place, str]()
    for group in groups:
        for each in mapping.get(group, ()):
            if each == SUPERUSER:
                superuser = True
            elif found := _ROLE.fullmatch(each):
                place = found["organization"], found["team"] or ""
                places[place] = max(places.get(place, ORDER[0]), found["role"], key=ORDER.index)
    return Roles(superuser, MappingProxyType(places))
