"""Every address: the admin here, the Gemini API through its own door."""

from django.contrib import admin
from django.urls import path

urlpatterns = [
    path("admin/", admin.site.urls),
]
