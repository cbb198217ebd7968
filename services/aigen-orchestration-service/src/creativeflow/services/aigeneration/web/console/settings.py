"""The settings in force, each with its sentence, and nothing of a secret but whether it is set."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from pydantic import SecretStr
from starlette.responses import Response

from creativeflow.services.aigeneration.api.dependencies import queries
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.settings import Credits, Settings, scheme
from creativeflow.services.aigeneration.web.auth import OperatorVisitor
from creativeflow.services.aigeneration.web.console.page import console_page
from creativeflow.services.aigeneration.web.templating import pages_router

_ADAPTERS: Mapping[str, tuple[str, Mapping[str, str]]] = MappingProxyType(
    {
        "engine_url": (
            "Who makes the pictures",
            {"local": "the local engine", "amqp": "n8n, through RabbitMQ"},
        ),
        "credits_url": (
            "Who keeps the credits",
            {"local": "the ledger here", "http": "a billing adapter", "odoo+http": "Odoo"},
        ),
        "notify_url": (
            "Who tells the users",
            {"log": "nobody: the log", "amqp": "RabbitMQ", "http": "an HTTP service"},
        ),
        "safety_url": (
            "Who checks the words",
            {
                "words": "the word lists",
                "none": "nobody",
                "http": "the word lists, then an endpoint",
            },
        ),
    }
)
"""What the scheme of an address chooses; a scheme for encrypted connections ends with one more `s`.
"""

router = pages_router("/console")


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """One setting as it is in force."""

    name: str
    value: str
    sentence: str
    default: bool
    secret: bool


@router.get("/settings")
async def settings(request: Request, visitor: OperatorVisitor) -> Response:
    """What this process runs with."""
    found: Settings = request.app.state.settings
    return await console_page(
        request,
        visitor,
        "console/settings.html",
        knobs=setting_rows(found),
        adapters=adapters(found),
        version=request.app.version,
        revision=await queries(request).revision(),
        database="set" if found.database_url else "embedded",
        checks=await request.app.state.checks(),
    )


def setting_rows(found: Settings) -> list[SettingRow]:
    """Every setting, by name."""
    return [
        SettingRow(
            name=f"AIGEN_{name.upper()}",
            value=_shown(name, getattr(found, name)),
            sentence=field.description or "",
            default=getattr(found, name) == field.get_default(),
            secret=_secret(getattr(found, name), field.annotation),
        )
        for name, field in sorted(Settings.model_fields.items())
    ]


def adapters(found: Settings) -> list[tuple[str, str]]:
    """Which part does each job."""
    return [
        (job, by[_plain(scheme(getattr(found, name)))]) for name, (job, by) in _ADAPTERS.items()
    ]


def _plain(name: str) -> str:
    return name[:-1] if name in {"amqps", "https", "odoo+https"} else name


def _secret(value: Any, annotation: Any) -> bool:
    return isinstance(value, SecretStr) or "SecretStr" in str(annotation)


def _shown(name: str, value: Any) -> str:
    """A value for eyes; of a secret only whether it is there, of a secret address what it begins
    with.
    """
    annotation = Settings.model_fields[name].annotation
    if _secret(value, annotation):
        if not value:
            return "not set"
        return f"{scheme(value)}://…" if name.endswith("_url") else "set"
    if Settings.__annotations__[name] == Credits:
        return credits_text(value)
    return _text(value)


def _text(value: Any) -> str:
    if value in (None, "", (), {}):
        return "none"
    match value:
        case bool():
            return "yes" if value else "no"
        case Enum():
            return str(value.value)
        case tuple():
            return ", ".join(map(_text, value))
        case dict():
            return ", ".join(f"{name}={said}" for name, said in value.items())
    return _address(value) if isinstance(value, str) and "://" in value else str(value)


def _address(url: str) -> str:
    """An address without names and keys that somebody may have written into it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}"
