from django.apps import AppConfig
from django.db.models.signals import pre_save


class RoutingConfig(AppConfig):
    name = "routing"
    verbose_name = "Routing"

    def ready(self) -> None:
        from routing import credentials  # noqa: PLC0415 - models exist only now

        # Whoever saves a connection, and however: a moved one does not take its credential along.
        pre_save.connect(credentials.guard_save, sender="routing.Connection", dispatch_uid="routing.guard_save")
