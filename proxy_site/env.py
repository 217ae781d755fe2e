"""The environment, read once and typed. Every variable is listed in .env.example, with its default.

Order: the environment, then NAME_FILE (a mounted secret), then secrets.env in the data directory (written by
`manage.py init`), then the default. A bad value stops the start with a sentence.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from keys import role_map

BASE_DIR = Path(__file__).resolve().parent.parent
SECRETS = ("SECRET_KEY", "GATEHOUSE_PEPPER", "GATEHOUSE_ENCRYPTION_KEYS")


class FromFiles(EnvSettingsSource):
    """NAME_FILE: the value is what the file holds."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = str(field.validation_alias or field_name)
        path = os.environ.get(f"{name}_FILE")
        if not path:
            return None, name, False
        return _content(name, path), name, False


def _content(name: str, path: str) -> str:
    """What NAME_FILE holds. Raises SystemExit with a sentence, because nothing goes on without it."""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise SystemExit(f"{name}_FILE names {path}, which cannot be read: {reason}.") from None


class Env(BaseSettings):
    model_config = SettingsConfigDict(extra="ignore", case_sensitive=True, env_ignore_empty=True, allow_inf_nan=False)

    # Where things are kept
    data_dir: Path = Field(BASE_DIR / "data", validation_alias="GATEHOUSE_DATA_DIR")
    database_url: str = Field("", validation_alias="DATABASE_URL")
    redis_url: str = Field("", validation_alias="REDIS_URL")

    # Secrets: independent of each other, made by `manage.py init`
    secret_key: str = Field("", validation_alias="SECRET_KEY")
    pepper: str = Field("", validation_alias="GATEHOUSE_PEPPER")
    encryption_keys: str = Field("", validation_alias="GATEHOUSE_ENCRYPTION_KEYS")

    # How it is reached
    debug: bool = Field(False, validation_alias="DEBUG")
    host: str = Field("127.0.0.1", validation_alias="HOST")
    port: int = Field(8000, ge=0, le=65535, validation_alias="PORT")
    workers: int = Field(1, ge=1, validation_alias="WEB_CONCURRENCY")
    public_url: str = Field("", validation_alias="GATEHOUSE_PUBLIC_URL")
    allowed_hosts: str = Field("*", validation_alias="ALLOWED_HOSTS")
    csrf_trusted_origins: str = Field("", validation_alias="CSRF_TRUSTED_ORIGINS")
    forwarded_allow_ips: str = Field("127.0.0.1", validation_alias="FORWARDED_ALLOW_IPS")
    secure_cookies: bool = Field(  # unless it is said, by how people reach it
        default_factory=lambda given: str(given.get("public_url", "")).lower().startswith("https://"),
        validation_alias="GATEHOUSE_SECURE_COOKIES",
    )
    metrics_token: str = Field("", validation_alias="METRICS_TOKEN")

    # What a client may send, and how long we wait for it
    max_body: int = Field(20 * 1024 * 1024, gt=0, validation_alias="GATEHOUSE_MAX_BODY_BYTES")
    header_timeout: float = Field(10.0, gt=0, validation_alias="GATEHOUSE_HEADER_TIMEOUT")
    body_timeout: float = Field(30.0, gt=0, validation_alias="GATEHOUSE_BODY_TIMEOUT")
    write_timeout: float = Field(60.0, gt=0, validation_alias="GATEHOUSE_WRITE_TIMEOUT")
    max_connections: int = Field(4096, gt=0, validation_alias="GATEHOUSE_MAX_CONNECTIONS")
    max_calls: int = Field(2048, gt=0, validation_alias="GATEHOUSE_MAX_CALLS")
    drain_timeout: float = Field(30.0, ge=0, validation_alias="GATEHOUSE_DRAIN_TIMEOUT")

    # How long we wait for upstreams (seconds)
    upstream_connect_timeout: float = Field(3.0, gt=0, validation_alias="GATEHOUSE_UPSTREAM_CONNECT_TIMEOUT")
    upstream_first_byte_timeout: float = Field(60.0, gt=0, validation_alias="GATEHOUSE_UPSTREAM_FIRST_BYTE_TIMEOUT")
    upstream_idle_timeout: float = Field(60.0, gt=0, validation_alias="GATEHOUSE_UPSTREAM_IDLE_TIMEOUT")
    upstream_total_timeout: float = Field(600.0, gt=0, validation_alias="GATEHOUSE_UPSTREAM_TOTAL_TIMEOUT")
    upstream_max_answer: int = Field(64 * 1024 * 1024, gt=0, validation_alias="GATEHOUSE_UPSTREAM_MAX_ANSWER_BYTES")
    breaker_seconds: float = Field(5.0, gt=0, le=300, validation_alias="GATEHOUSE_BREAKER_SECONDS")

    # How long Redis may take to answer before this process goes on alone (seconds)
    store_timeout: float = Field(0.05, gt=0, validation_alias="GATEHOUSE_STORE_TIMEOUT")

    # How long things are remembered
    key_cache_seconds: float = Field(5.0, ge=0, validation_alias="GATEHOUSE_KEY_CACHE_SECONDS")
    key_stale_seconds: float = Field(600.0, ge=0, validation_alias="GATEHOUSE_KEY_STALE_SECONDS")
    retention_days: int = Field(90, gt=0, validation_alias="GATEHOUSE_RETENTION_DAYS")
    body_retention_days: int = Field(7, ge=0, validation_alias="GATEHOUSE_BODY_RETENTION_DAYS")
    body_max: int = Field(1024 * 1024, ge=1024, le=16 * 1024 * 1024, validation_alias="GATEHOUSE_BODY_MAX_KEPT_BYTES")
    minute_retention_days: int = Field(3, gt=0, validation_alias="GATEHOUSE_MINUTE_RETENTION_DAYS")
    audit_retention_days: int = Field(730, gt=0, validation_alias="GATEHOUSE_AUDIT_RETENTION_DAYS")
    spool_fsync: bool = Field(False, validation_alias="GATEHOUSE_SPOOL_FSYNC")

    # What is written down
    log_level: str = Field("INFO", validation_alias="LOG_LEVEL")
    log_format: str = Field("text", validation_alias="LOG_FORMAT")

    # Mail (invitations, alerts)
    email_url: str = Field("", validation_alias="EMAIL_URL")
    default_from_email: str = Field("gatehouse@localhost", validation_alias="DEFAULT_FROM_EMAIL")

    # Single sign-on (OpenID Connect): off until there is an issuer
    oidc_name: str = Field("single sign-on", validation_alias="GATEHOUSE_OIDC_NAME")
    oidc_client_id: str = Field("", validation_alias="GATEHOUSE_OIDC_CLIENT_ID")
    oidc_client_secret: SecretStr = Field(SecretStr(""), validation_alias="GATEHOUSE_OIDC_CLIENT_SECRET")
    oidc_scopes: str = Field("openid email profile", validation_alias="GATEHOUSE_OIDC_SCOPES")
    oidc_groups_claim: str = Field("groups", validation_alias="GATEHOUSE_OIDC_GROUPS_CLAIM")
    oidc_roles: str = Field("", validation_alias="GATEHOUSE_OIDC_ROLES")
    oidc_trust_email: bool = Field(False, validation_alias="GATEHOUSE_OIDC_TRUST_EMAIL")
    oidc_allow_private: bool = Field(False, validation_alias="GATEHOUSE_OIDC_ALLOW_PRIVATE")
    oidc_issuer: str = Field("", validation_alias="GATEHOUSE_OIDC_ISSUER")
    password_login: bool = Field(True, validation_alias="GATEHOUSE_PASSWORD_LOGIN")

    @field_validator("oidc_roles")
    @classmethod
    def _roles_can_be_read(cls, given: str) -> str:
        role_map.parse(given)
        return given

    @field_validator("oidc_issuer")
    @classmethod
    def _an_issuer_has_what_it_needs(cls, given: str, info: ValidationInfo) -> str:
        needed = {"GATEHOUSE_PUBLIC_URL": "public_url", "GATEHOUSE_OIDC_CLIENT_ID": "oidc_client_id"}
        if missing := [name for name, field in needed.items() if given and not info.data.get(field)]:
            raise ValueError(f"single sign-on needs {' and '.join(missing)} as well")
        plain = given.startswith("http://") and info.data.get("oidc_allow_private")
        if given and not (given.startswith("https://") or plain):
            raise ValueError("it must begin with https:// (or http:// with GATEHOUSE_OIDC_ALLOW_PRIVATE)")
        return given

    @field_validator("password_login")
    @classmethod
    def _there_is_a_way_in(cls, given: bool, info: ValidationInfo) -> bool:
        if not given and not info.data.get("oidc_issuer"):
            raise ValueError("without passwords there must be single sign-on: set GATEHOUSE_OIDC_ISSUER")
        return given

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, FromFiles(settings_cls), dotenv_settings


def read() -> Env:
    """Read everything. A bad value ends the start with one sentence for each."""
    data_dir = Path(os.environ.get("GATEHOUSE_DATA_DIR") or BASE_DIR / "data")
    try:
        return Env(_env_file=data_dir / "secrets.env")  # type: ignore[call-arg]  # pydantic-settings' own keyword
    except ValidationError as error:
        said = "; ".join(f"{found['loc'][0]}: {found['msg'].removeprefix('Value error, ')}" for found in error.errors())
        raise SystemExit(f"Gatehouse cannot start. {said}.") from None


def credential_reference(name: str) -> str | None:
    """The value of an environment variable that a connection refers to as `ref:NAME`; None when it is not set."""
    return os.environ.get(name)


def given(name: str) -> str | None:
    """A variable named in a configuration file as `env:NAME`, at the time it is applied; or of `manage.py init`."""
    if path := os.environ.get(f"{name}_FILE"):
        return _content(name, path)
    return os.environ.get(name)


def inherited() -> dict[str, str]:
    """This process's environment, for a child that shall have the same one."""
    return dict(os.environ)


def metrics_directory() -> str:
    """Where several workers keep their metrics; "" when there is only one."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")


def share_metrics(directory: Path) -> None:
    """Before workers start: one directory for the metrics of all of them, empty."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
