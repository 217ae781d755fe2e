from django.apps import AppConfig


class UsageConfig(AppConfig):
    name = "usage"
    verbose_name = "Usage"

    def ready(self) -> None:
        from usage import body_store  # noqa: F401, PLC0415 - models are there only now; it listens to deletions
