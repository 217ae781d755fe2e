"""The admin site: who may enter it, and the pages it has beside the models'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import URLPattern
from unfold.sites import UnfoldAdminSite

from keys.principal import principal_of

if TYPE_CHECKING:
    from keys.models import User


class ConsoleSite(UnfoldAdminSite):
    """Everybody with a role comes in; what they find is the principal's business."""

    site_title = site_header = "Gatehouse"
    index_title = "Overview"
    login_template = "gatehouse/login.html"

    def has_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_active) and request.user.is_authenticated and principal_of(request).has_any_role

    def extra_urls(self) -> list[URLPattern]:
        from proxy_site.console import urls  # noqa: PLC0415 - pages import models, and this loads before them

        return urls.patterns(self)

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        from proxy_site.console import outages  # noqa: PLC0415 - as above

        return {**super().each_context(request), "outages": outages.now()}

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """The first page is the overview."""
        from proxy_site.console import overview  # noqa: PLC0415 - as above

        request.current_app = self.name
        return overview.page(request, {**self.each_context(request), **(extra_context or {})})

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """With the second factor of those who have one, passkeys, and single sign-on where it is set up."""
        from proxy_site.console import passkeys, second_factor, single_sign_on  # noqa: PLC0415 - as above

        if request.method == "POST" and not settings.GATEHOUSE.password_login:
            raise PermissionDenied("Passwords sign nobody in here.")
        self.login_form = second_factor.LoginForm
        following = str(request.GET.get("next") or request.POST.get("next") or "")
        ways = {
            "single_sign_on": single_sign_on.offered(request, following),
            "passkeys_available": passkeys.available(),
            "password_login": settings.GATEHOUSE.password_login,
        }
        return super().login(request, {**ways, **(extra_context or {})})

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """And the way to sign out at the single sign-on provider, for whoever came from there."""
        from proxy_site.console import single_sign_on  # noqa: PLC0415 - as above

        way_out = single_sign_on.way_out(request) if request.method == "POST" else ""
        response = super().logout(request, extra_context)
        if not way_out:
            return response
        shown = {**self.each_context(request), "title": "Signed out", "way_out": way_out}
        shown["single_sign_on"] = single_sign_on.offered(request)
        return TemplateResponse(request, "gatehouse/signed_out.html", shown)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """One's own password: other sessions end, and the trail tells."""
        from proxy_site.console import sign_in  # noqa: PLC0415 - as above

        response = super().password_change(request, extra_context)
        if request.method == "POST" and response.status_code == 302:
            sign_in.record_password(request, cast("User", request.user))
        return response
