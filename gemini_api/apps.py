from django.apps import AppConfig


class GeminiApiConfig(AppConfig):
    name = "gemini_api"
    verbose_name = "Gemini API"
