"""The settings page: each setting with its description; secrets only as set or not set."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from pydantic import SecretStr
from starlette.responses import Response

from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.settings import Credits, Settings, scheme
from creativeflow.services.aigeneration.web.auth import OperatorVisitor
from creativeflow.services.aigeneration.web.console.page import render_console_page
from creativeflow.services.aigeneration.web.templating import create_page_router

_ADAPTERS: Mapping[str, tuple[str, Mapping[str, str]]] = MappingProxyType(
    {
        "engine_url": ("Image engine", {"local": "Local engine", "amqp": "n8n, through RabbitMQ"}),
        "credits_url": (
            "Credit service",
            {"local": "Local ledger", "http": "Billing adapter", "odoo+http": "Odoo"},
        ),
        "notify_url": (
            "Notifications",
            {"log": "Log only", "amqp": "RabbitMQ", "http": "HTTP service"},
        ),
        "safety_url": (
            "Content check",
            {
                "words": "Word lists",
                "none": "Disabled",
                "http": "Word lists and a moderation endpoint",
            },
        ),
    }
)
"""Adapters by setting and URL scheme; the TLS variant of a scheme has one more `s`."""

router = create_page_router("/console")


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """One effective setting."""

    name: str
    value: str
    description: str
    default: bool
    secret: bool


@router.get("/settings")
async def show_settings(request: Request, visitor: OperatorVisitor) -> Response:
    """Show the effective settings of this process."""
    found = services_of(request).settings
    return await render_console_page(
        request,
        visitor,
        "console/settings.html",
        rows=build_setting_rows(found),
        adapters=describe_adapters(found),
        version=request.app.version,
        revision=await services_of(request).queries.revision(),
        database="set" if found.database_url else "embedded",
        checks=await services_of(request).checks(),
    )


def build_setting_rows(found: Settings) -> list[SettingRow]:
    """Build a row for every setting, sorted by name."""
    return [
        SettingRow(
            name=f"AIGEN_{name.upper()}",
            value=_format_value(name, getattr(found, name)),
            description=field.description or "",
            default=getattr(found, name) == field.get_default(),
            secret=_is_secret(getattr(found, name), field.annotation),
        )
        for name, field in sorted(Settings.model_fields.items())
    ]


def describe_adapters(found: Settings) -> list[tuple[str, str]]:
    """Return the configured adapter of each external system."""
    return [
        (role, names[_strip_tls(scheme(getattr(found, name)))])
        for name, (role, names) in _ADAPTERS.items()
    ]


def _strip_tls(name: str) -> str:
    return name[:-1] if name in {"amqps", "https", "odoo+https"} else name


def _is_secret(value: Any, annotation: Any) -> bool:
    return isinstance(value, SecretStr) or "SecretStr" in str(annotation)


def _format_value(name: str, value: Any) -> str:
    """Format a value; of a secret only whether it is set, of a secret URL its scheme."""
    annotation = Settings.model_fields[name].annotation
    if _is_secret(value, annotation):
        if not value:
            return "not set"
        return f"{scheme(value)}://…" if name.endswith("_url") else "set"
    if Settings.__annotations__[name] == Credits:
        return credits_text(value)
    return _format_plain(value)


def _format_plain(value: Any) -> str:
    if value in (None, "", (), {}):
        return "none"
    match value:
        case bool():
            return "yes" if value else "no"
        case Enum():
            return str(value.value)
        case tuple():
            return ", ".join(map(_format_plain, value))
        case dict():
            return ", ".join(f"{key}={item}" for key, item in value.items())
    return _redact_url(value) if isinstance(value, str) and "://" in value else str(value)


def _redact_url(url: str) -> str:
    """Remove credentials and the query from a URL."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}"
