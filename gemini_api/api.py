"""The NinjaAPI: routes of the Gemini API, and every failure in Google's shape."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from gemini_api import views
from gemini_api.errors import GeminiError, InvalidArgument, NotFound
from gemini_api.output import error_response
from gemini_api.told import told


class GeminiAPI(NinjaAPI):
    """Every view answers with a response of its own, so ninja need not make one for each call beforehand."""

    def create_temporal_response(self, request: HttpRequest) -> HttpResponse:
        return UNUSED


UNUSED = HttpResponse()
api = GeminiAPI(title="Gemini API", version="v1beta", urls_namespace="gemini", docs_url=None, openapi_url=None)

api.add_router("", views.router())


@api.exception_handler(Exception)
@api.exception_handler(GeminiError)
def answer(request: HttpRequest, trouble: Exception) -> HttpResponse:
    return error_response(told(trouble))


@api.exception_handler(ValidationError)
def not_valid(request: HttpRequest, trouble: Exception) -> HttpResponse:
    return error_response(InvalidArgument(str(trouble)))


@api.exception_handler(HttpError)
def http_error(request: HttpRequest, trouble: HttpError) -> HttpResponse:
    return error_response(
        InvalidArgument(trouble.message) if trouble.status_code == 400 else GeminiError(trouble.message)
    )


@api.exception_handler(Http404)
def not_found(request: HttpRequest, trouble: Exception) -> HttpResponse:
    return error_response(NotFound(f"The requested URL {request.path} was not found on this server."))
