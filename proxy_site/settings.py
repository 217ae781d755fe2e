"""Every setting, in the order one would ask about it. The environment is read in env.py, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import dj_database_url

from proxy_site import env as environment
from proxy_site.console.navigation import UNFOLD as UNFOLD

ENV = environment.read()
BASE_DIR = environment.BASE_DIR
DATA_DIR: Path = ENV.data_dir

# Secrets. `manage.py serve` refuses placeholders (proxy_site/checks.py); other commands may run without.
PLACEHOLDER = "not-a-secret-run-manage-py-init"
SECRET_KEY = ENV.secret_key or PLACEHOLDER
GATEHOUSE_PEPPER = ENV.pepper or PLACEHOLDER
GATEHOUSE_ENCRYPTION_KEYS = ENV.encryption_keys

# The gateway's own settings are ENV.<name>; rooms to the right get them handed in at start.
GATEHOUSE = ENV
PUBLIC_URL = ENV.public_url or f"http://{'127.0.0.1' if ENV.host == '0.0.0.0' else ENV.host}:{ENV.port}"

DEBUG = ENV.debug
ALLOWED_HOSTS = [host.strip() for host in ENV.allowed_hosts.split(",") if host.strip()]
CSRF_TRUSTED_ORIGINS = [origin.strip() for origin in ENV.csrf_trusted_origins.split(",") if origin.strip()]
if ENV.public_url.startswith("https://") and not CSRF_TRUSTED_ORIGINS:
    CSRF_TRUSTED_ORIGINS = ["/".join(ENV.public_url.split("/")[:3])]

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "proxy_site.console.apps.ConsoleConfig",  # django.contrib.admin, with our own site
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "csp",
    "ninja",
    "keys",
    "routing",
    "usage",
    "gemini_api",
    "proxy_site",
]

# The admin door. The API door has its own, async-only list.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
API_MIDDLEWARE = ["keys.middleware.VirtualKeyMiddleware"]
API_PREFIXES = ("/v1beta/", "/v1/", "/v1alpha/", "/v1beta1/")

ROOT_URLCONF = "proxy_site.urls"
WSGI_APPLICATION = None
ASGI_APPLICATION = "proxy_site.asgi.application"
APPEND_SLASH = True

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# What is kept. PostgreSQL when DATABASE_URL says so, otherwise SQLite in the data directory.
if ENV.database_url:
    _database: dict[str, Any] = dict(dj_database_url.parse(ENV.database_url))
    if "postgresql" in _database["ENGINE"]:
        _database.setdefault("OPTIONS", {})
        _database["OPTIONS"] |= {
            "pool": {"min_size": 1, "max_size": 8, "timeout": 3},
            "connect_timeout": 3,
        }
        _database["CONN_MAX_AGE"] = 0
        _database["CONN_HEALTH_CHECKS"] = True
else:
    _database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(DATA_DIR / "gatehouse.sqlite3"),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=20000;",
        },
    }
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
REDIS_URL = ENV.redis_url

# Mail. EMAIL_URL is smtp://user:password@host:587 (STARTTLS), smtps://...:465, smtp+plain://host:25, or console:
_mail = urlsplit(ENV.email_url)
EMAIL_BACKEND = f"django.core.mail.backends.{'console' if _mail.scheme == 'console' else 'smtp'}.EmailBackend"
EMAIL_HOST = _mail.hostname or ""
EMAIL_PORT = _mail.port or (465 if _mail.scheme == "smtps" else 587)
EMAIL_HOST_USER = unquote(_mail.username or "")
EMAIL_HOST_PASSWORD = unquote(_mail.password or "")
EMAIL_USE_SSL = _mail.scheme == "smtps"
EMAIL_USE_TLS = _mail.scheme == "smtp"
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = ENV.default_from_email

# People
AUTH_USER_MODEL = "keys.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "/admin/login/"
LOGIN_REDIRECT_URL = "/admin/"
AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = 0.25  # hours
AXES_USERNAME_FORM_FIELD = (
    "username"  # what the form calls it; else every account counts as one, and nobody is kept out
)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_CALLABLE = "proxy_site.console.sign_in.locked"
AXES_DISABLE_ACCESS_LOG = True  # a row for each sign-in, for ever, that no page shows

# Cookies and headers
SESSION_COOKIE_NAME = "__Host-gatehouse" if ENV.secure_cookies else "gatehouse"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = ENV.secure_cookies
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 12 * 3600
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 31536000 if ENV.secure_cookies else 0
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        # unfold's Alpine evaluates expressions: it breaks without 'unsafe-eval'.
        "script-src": ["'self'", "'unsafe-eval'"],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
    }
}

# Words, time and files
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True  # from where the packages and static/ have them: nothing to collect
WHITENOISE_AUTOREFRESH = DEBUG
DATA_UPLOAD_MAX_MEMORY_SIZE = ENV.max_body

LOGGING_CONFIG = None  # lib/log.py sets up structlog; see proxy_site/apps.py
