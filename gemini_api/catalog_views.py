"""The models a key may use: the list, in pages, and one of them. From the catalog in memory."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse

from gemini_api.call import Call
from gemini_api.errors import InvalidArgument
from gemini_api.output import json_response
from gemini_api.permission import permitted, permitted_listing
from keys import policy
from lib import json
from routing import loading
from routing.catalog import ModelEntry

Json = dict[str, Any]
PAGE, LARGEST_PAGE = 50, 1000


def list_models(call: Call, query: Mapping[str, str]) -> HttpResponse:
    permitted_listing(call)
    models = [
        model
        for model in loading.current().visible(call.key.organization_id)
        if model.deployments and policy.allows_model(call.key, model.name)
    ]
    size = page_size(query.get("pageSize", "") or query.get("page_size", ""))
    after = read_token(query.get("pageToken", "") or query.get("page_token", ""))
    rest = [model for model in models if model.name > after]
    page = rest[:size]
    answer: Json = {"models": [described(model) for model in page]}
    if len(rest) > size:
        answer["nextPageToken"] = base64.urlsafe_b64encode(page[-1].name.encode()).decode()
    return json_response(json.dumps_line(answer))


def get_model(call: Call) -> HttpResponse:
    return json_response(json.dumps_line(described(permitted(call), asked=call.requested)))


def described(model: ModelEntry, asked: str = "") -> Json:
    """A Model resource as the API writes it. An alias answers under the name that was asked for."""
    methods = ["generateContent", "streamGenerateContent", "countTokens"]
    if any("embed" in deployment.actions for deployment in model.deployments):
        methods += ["embedContent", "batchEmbedContents"]
    return {
        "name": f"models/{asked or model.name}",
        "baseModelId": model.name,
        "version": "1",
        "displayName": model.display_name or model.name,
        "description": model.description,
        "inputTokenLimit": model.input_token_limit,
        "outputTokenLimit": model.output_token_limit,
        "supportedGenerationMethods": methods,
        "temperature": 1.0,
        "maxTemperature": 2.0,
        "topP": 0.95,
        "topK": 64,
    }


def page_size(text: str) -> int:
    if not text:
        return PAGE
    try:
        size = int(text)
    except ValueError:
        raise InvalidArgument(f"Invalid value at 'page_size' (TYPE_INT32), \"{text}\"", field="page_size") from None
    if size < 0:
        raise InvalidArgument("The page size must not be negative.", field="page_size")
    return min(size or PAGE, LARGEST_PAGE)


def read_token(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidArgument("The page token is not one of ours.", field="page_token") from None
