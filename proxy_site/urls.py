"""Every address. The API paths come first; the API door and Django's own handler both read this."""

from __future__ import annotations

import re
from collections.abc import Iterator

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, URLResolver, path, re_path
from django.views import defaults

from gemini_api.api import api
from gemini_api.errors import GeminiError, NotFound
from gemini_api.output import error_response

_found, _app, _namespace = api.urls
_routes = [each for each in _found if getattr(each, "name", "") != "api-root"]  # ninja's way to a page of documentation


# The whole API under every version, and under Vertex's longer paths: the same views, so that none can fall behind.
VERSIONS = ("v1beta", "v1", "v1alpha", "v1beta1")
PREFIXES = ("", "publishers/google/", "projects/<project>/locations/<location>/publishers/google/")


def mounted() -> Iterator[URLResolver]:
    for number, address in enumerate(f"{version}/{prefix}" for version in VERSIONS for prefix in PREFIXES):
        yield path(address, (_routes, _app, f"{_namespace}-{number}" if number else _namespace))


def home(request: HttpRequest) -> HttpResponse:
    return redirect("/admin/")


def unknown(request: HttpRequest) -> HttpResponse:
    """Google's words for a path, or for an action on a model, that nobody serves."""
    found = re.match(r"/(v1\w*)/(.*):(\w+)$", request.path)
    if found:
        version, model, action = found.groups()
        return error_response(
            NotFound(f"{model} is not found for API version {version}, or is not supported for {action}.")
        )
    return error_response(NotFound(f"The requested URL {request.path} was not found on this server."))


async def unknown_api(request: HttpRequest) -> HttpResponse:
    return unknown(request)


urlpatterns: list[URLPattern | URLResolver] = [
    *mounted(),
    re_path(r"^v1(?:beta1?|alpha)?(?:/.*)?$", unknown_api),
    path("admin/", admin.site.urls),
    path("", home),
]


def handler404(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """People get a page, programs get Google's shape."""
    if request.path.startswith("/admin/"):
        return defaults.page_not_found(request, exception or Exception())
    return unknown(request)


def handler500(request: HttpRequest) -> HttpResponse:
    if request.path.startswith("/admin/"):
        return defaults.server_error(request)
    return error_response(GeminiError())
