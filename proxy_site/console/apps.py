"""ConsoleConfig takes the place of django.contrib.admin in INSTALLED_APPS."""

from django.contrib.admin.apps import AdminConfig


class ConsoleConfig(AdminConfig):
    default_site = "proxy_site.console.site.ConsoleSite"
