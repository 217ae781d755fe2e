"""The page that shows a new secret, once, with what a developer needs to use it."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass

from django.conf import settings
from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from keys import once
from keys.models import VirtualKey
from keys.policy import matches
from keys.principal import principal_of
from routing.models import PublicModel

FALLBACK_MODEL = "gemini-2.5-flash"
PLACEHOLDER = "YOUR_KEY"


@dataclass(frozen=True, slots=True)
class Snippet:
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Client:
    id: str
    label: str
    note: str
    snippets: tuple[Snippet, ...]


def page(request: HttpRequest, key_id: uuid.UUID) -> HttpResponse:
    """With the secret the first time it is looked at; afterwards the same page says that it is gone."""
    key = (
        principal_of(request).scope(VirtualKey.objects.select_related("organization", "team")).filter(pk=key_id).first()
    )
    if key is None:
        raise Http404
    secret = once.take(request, str(key_id))
    base = base_url(request)
    shown = secret or PLACEHOLDER
    context = {
        **admin.site.each_context(request),
        "title": "New secret" if secret else "Use this key",
        "subtitle": key.name,
        "key": key,
        "secret": secret,
        "env": env_file(base, shown),
        "clients": clients(base, shown, model_for(key)),
        "first_url": f"{reverse('admin:key_first', args=[key.pk])}?since={int(time.time() * 1000)}",
        "opts": VirtualKey._meta,
        "original": key,
    }
    response = TemplateResponse(request, "gatehouse/issued.html", context)
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "no-referrer"
    response.delete_cookie(once.COOKIE, path=request.path, samesite="Strict")
    return response


def base_url(request: HttpRequest) -> str:
    """Where clients reach the gateway: as configured, else as this browser reached it."""
    return (settings.GATEHOUSE.public_url or request.build_absolute_uri("/")).rstrip("/")


def model_for(key: VirtualKey) -> str:
    """A model this key may use, for the snippets."""
    rows = PublicModel.objects.filter(enabled=True, organization_id__isnull=True)
    names = [
        *rows.values_list("name", flat=True),
        *key.organization.public_models.filter(enabled=True).values_list("name", flat=True),
    ]
    allowed = key.allowed_models
    for name in names:
        if any(matches(pattern, name) for pattern in key.denied_models):
            continue
        if allowed is None or any(matches(pattern, name) for pattern in allowed):
            return name
    return next((each for each in allowed or [] if "*" not in each), FALLBACK_MODEL)


def env_file(base: str, secret: str) -> str:
    return f"GEMINI_API_KEY={secret}\nGOOGLE_GEMINI_BASE_URL={base}\n"


def clients(base: str, secret: str, model: str) -> list[Client]:
    """What to paste, client by client. Facts about each client: see docs."""
    ask = '{"contents": [{"role": "user", "parts": [{"text": "Say hello"}]}]}'
    entry = json.dumps({"security": {"auth": {"selectedType": "gemini-api-key"}}}, indent=2)
    return [
        Client(
            "gemini-cli",
            "gemini-cli",
            "Without the settings entry gemini-cli stops with exit code 41. GOOGLE_API_KEY wins over GEMINI_API_KEY when both are set.",
            (
                Snippet(
                    "Shell",
                    f'export GEMINI_API_KEY="{secret}"\nexport GOOGLE_GEMINI_BASE_URL="{base}"\ngemini -m {model} -p "Say hello"',
                ),
                Snippet("~/.gemini/settings.json", entry),
            ),
        ),
        Client(
            "python",
            "Python",
            "google-genai; it also reads GEMINI_API_KEY and GOOGLE_GEMINI_BASE_URL by itself.",
            (
                Snippet(
                    "google-genai",
                    "from google import genai\n\n"
                    f'client = genai.Client(api_key="{secret}", http_options={{"base_url": "{base}"}})\n'
                    f'answer = client.models.generate_content(model="{model}", contents="Say hello")\n'
                    "print(answer.text)",
                ),
            ),
        ),
        Client(
            "javascript",
            "JavaScript",
            "@google/genai",
            (
                Snippet(
                    "@google/genai",
                    'import { GoogleGenAI } from "@google/genai";\n\n'
                    f'const ai = new GoogleGenAI({{ apiKey: "{secret}", httpOptions: {{ baseUrl: "{base}" }} }});\n'
                    f'const answer = await ai.models.generateContent({{ model: "{model}", contents: "Say hello" }});\n'
                    "console.log(answer.text);",
                ),
            ),
        ),
        Client(
            "curl",
            "curl",
            "",
            (
                Snippet(
                    "At once",
                    f'curl "{base}/v1beta/models/{model}:generateContent" \\\n'
                    f'  -H "x-goog-api-key: {secret}" -H "Content-Type: application/json" \\\n'
                    f"  -d '{ask}'",
                ),
                Snippet(
                    "As a stream",
                    f'curl -N "{base}/v1beta/models/{model}:streamGenerateContent?alt=sse" \\\n'
                    f'  -H "x-goog-api-key: {secret}" -H "Content-Type: application/json" \\\n'
                    f"  -d '{ask}'",
                ),
            ),
        ),
    ]
