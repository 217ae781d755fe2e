from django.apps import AppConfig


class ProxySiteConfig(AppConfig):
    name = "proxy_site"
    verbose_name = "Site"

    def ready(self) -> None:
        """Hand the rooms what only this one may touch: the environment, and the secrets that keys derive from."""
        from django.conf import settings  # noqa: PLC0415 - the app registry is ready only now

        from gemini_api import signatures  # noqa: PLC0415 - as above
        from lib import log  # noqa: PLC0415 - as above
        from proxy_site import checks, env  # noqa: F401, PLC0415 - as above; importing registers the checks
        from routing import credentials  # noqa: PLC0415 - as above

        log.set_up(settings.GATEHOUSE.log_level, settings.GATEHOUSE.log_format)
        credentials.read_reference = env.credential_reference
        signatures.configure(settings.GATEHOUSE_PEPPER.encode())
