"""May this key do this, and which model does it mean? Asked first, by every action, in one place.

Aliases are resolved before any check, so that policy, limits and records speak of the model's own name. A name
that no pattern allows is 403 whether it exists or not; an allowed name without a model is 404.
"""

from __future__ import annotations

import time

from gemini_api.call import Call
from gemini_api.errors import NotFound
from keys import policy
from routing import loading
from routing.catalog import ModelEntry

# What is asked of an action's scope: reading one model is listing, as far as a key is concerned.
SCOPES = {"getModel": "listModels"}


def permitted_listing(call: Call) -> None:
    """Raises policy.Denied."""
    policy.check_key(call.key, call.address, time.time())
    policy.check_action(call.key, SCOPES.get(call.action, call.action))


def named(call: Call) -> ModelEntry | None:
    """The model this call means, allowed or not."""
    return loading.current().resolve(call.requested, call.key.organization_id)


def permitted(call: Call) -> ModelEntry:
    """The model this call means. Raises policy.Denied or NotFound."""
    permitted_listing(call)
    model = named(call)
    policy.check_model(call.key, model.name if model else call.requested)
    if model is None:
        raise NotFound(
            f"models/{call.requested} is not found for API version {call.version}, or is not supported for {call.action}."
        )
    return model
