"""The Gemini API's own methods: read the call, hand it on, write the answer. Thin on purpose.

Every view is mounted under /v1beta, /v1 and /v1alpha alike, and under Vertex's longer paths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from django.http import HttpRequest, HttpResponse
from ninja import Router
from ninja.params import models as params

from gemini_api import catalog_views, counting, dispatch, embedding
from gemini_api.call import read_call
from gemini_api.errors import MethodNotAllowed, NotFound
from gemini_api.output import StreamedAnswer


class ReadParams(params.PathModel):
    __ninja_flatten_map__: ClassVar[dict[str, Any]]  # ninja's: the names that a view asks for

    @classmethod
    def resolve(cls, request: HttpRequest, api: Any, path_params: dict[str, Any]) -> Any:
        return {name: path_params[name] for name in cls.__ninja_flatten_map__}


class Read(params.Path):  # type: ignore[misc]  # pydantic calls FieldInfo final; ninja builds on it all the same
    """A part of the path as Django's converter read it: text it is, so pydantic need not look at it with every call."""

    _model = ReadParams

    @classmethod
    def _param_source(cls) -> str:
        return "path"


Name = Annotated[str, Read(...)]


async def generate_content(request: HttpRequest, model: Name) -> HttpResponse:
    """One question, one answer."""
    return await dispatch.generate(read_call(request, "generateContent", model))


async def stream_generate_content(request: HttpRequest, model: Name) -> StreamedAnswer:
    """One question, and the answer as it comes: events with alt=sse, otherwise a JSON array."""
    return await dispatch.stream(read_call(request, "streamGenerateContent", model, stream=True))


async def count_tokens(request: HttpRequest, model: Name) -> HttpResponse:
    """How many tokens a request would be."""
    return await counting.count_tokens(read_call(request, "countTokens", model))


async def embed_content(request: HttpRequest, model: Name) -> HttpResponse:
    """One text as a vector."""
    return await embedding.embed(read_call(request, "embedContent", model), embedding.ONE)


async def batch_embed_contents(request: HttpRequest, model: Name) -> HttpResponse:
    """Many texts as vectors."""
    return await embedding.embed(read_call(request, "batchEmbedContents", model), embedding.MANY)


async def predict(request: HttpRequest, model: Name) -> HttpResponse:
    """Many texts as vectors, in the words that Vertex's SDK uses for it."""
    return await embedding.embed(read_call(request, "batchEmbedContents", model), embedding.PREDICT)


async def list_models(request: HttpRequest) -> HttpResponse:
    """The models this key may use, in pages."""
    return catalog_views.list_models(read_call(request, "listModels"), request.GET)


async def get_model(request: HttpRequest, model: Name) -> HttpResponse:
    """One model this key may use."""
    return catalog_views.get_model(read_call(request, "getModel", model))


async def wrong_verb(request: HttpRequest, *, allowed: str = "GET") -> HttpResponse:
    """The right path with the wrong verb."""
    raise MethodNotAllowed(f"{request.method} is not supported for {request.path}.", allowed=allowed)


async def wrong_verb_on_action(request: HttpRequest, model: Name) -> HttpResponse:
    return await wrong_verb(request, allowed="POST")


async def wrong_verb_on_model(request: HttpRequest, model: Name) -> HttpResponse:
    """The same for a model's path; a colon that no method took is an action nobody serves."""
    if request.method == "POST" and ":" in model:
        name, action = model.rsplit(":", 1)
        version = request.path.split("/")[1]
        raise NotFound(f"models/{name} is not found for API version {version}, or is not supported for {action}.")
    return await wrong_verb(request)


# How a path ends -> who answers. `{path:model}` takes names with slashes and colons.
METHODS = {
    ":generateContent": generate_content,
    ":streamGenerateContent": stream_generate_content,
    ":countTokens": count_tokens,
    ":embedContent": embed_content,
    ":batchEmbedContents": batch_embed_contents,
    ":predict": predict,
}


VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


def router() -> Router:
    routes = Router()

    def route(verb: str, path: str, view: Callable[..., Any], otherwise: Callable[..., Any]) -> None:
        routes.api_operation([verb], path)(view)
        routes.api_operation([each for each in VERBS if each != verb], path)(otherwise)

    for ending, view in METHODS.items():
        route("POST", "/models/{path:model}" + ending, view, wrong_verb_on_action)
    route("GET", "/models", list_models, wrong_verb)
    route("GET", "/models/{path:model}", get_model, wrong_verb_on_model)
    return routes
