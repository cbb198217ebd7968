"""Build the adapters that the settings choose: credits, notifier, prompt check, database."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import httpx

from creativeflow.services.aigeneration.adapters.credits.billing import (
    BillingCredits,
    BillingRoutes,
)
from creativeflow.services.aigeneration.adapters.credits.local import LocalCredits
from creativeflow.services.aigeneration.adapters.credits.odoo import MODEL, OdooCredits
from creativeflow.services.aigeneration.adapters.credits.odoo_rpc import OdooCalls
from creativeflow.services.aigeneration.adapters.moderation.endpoint import ModerationCheck
from creativeflow.services.aigeneration.adapters.moderation.word_lists import (
    STANDARD_FILE,
    WordCheck,
    read_rules,
)
from creativeflow.services.aigeneration.adapters.notifications.http import HttpNotifier
from creativeflow.services.aigeneration.adapters.notifications.log import LogNotifier
from creativeflow.services.aigeneration.adapters.notifications.rabbitmq import RabbitMQNotifier
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import Broker
from creativeflow.services.aigeneration.kit.signing import CallbackSecrets
from creativeflow.services.aigeneration.ports import Credits, Notifier, PromptCheck
from creativeflow.services.aigeneration.settings import Settings, odoo_address, scheme
from creativeflow.services.aigeneration.storage.billing_journal import BillingJournal
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.embedded import start_embedded
from creativeflow.services.aigeneration.storage.ledger import Ledger

CONNECTIONS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=1.0)
"""Limits of the client for calls to other services.

Servers close a connection that has been idle for a while, many after 2 to 5 s. A connection that is
closed at the moment it is reused leaves a charge in doubt, so this side closes it first.
"""


def database_url(settings: Settings) -> str:
    """Return the URL of the database; without a setting, start the embedded one.

    Blocking: starting the embedded database takes seconds.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return start_embedded(settings.data_dir / "postgres")


def build_http_client() -> httpx.AsyncClient:
    """Return the client for calls to services that the operator configured."""
    return httpx.AsyncClient(timeout=10.0, follow_redirects=False, limits=CONNECTIONS)


def load_callback_secrets(settings: Settings) -> CallbackSecrets:
    """Return the configured secrets, or one that is generated once into the data directory."""
    if configured := settings.callback_secrets():
        return CallbackSecrets(configured)
    path = settings.data_dir / "callback_secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return CallbackSecrets([path.read_text().strip()])


def asset_directory(settings: Settings) -> Path:
    """Return the directory of the pictures that this service stores."""
    return settings.data_dir / "assets"


def build_credits(
    settings: Settings,
    http: httpx.AsyncClient,
    database: Database,
    *,
    now: Callable[[], datetime],
    ledger: Ledger | None = None,
) -> Credits:
    """Return the Credits adapter of `credits_url`; `ledger` is the one to share for `local://`."""
    key = settings.credits_api_key.get_secret_value() if settings.credits_api_key else ""
    match scheme(settings.credits_url):
        case "local":
            return LocalCredits(ledger or Ledger(database))
        case "http" | "https":
            return BillingCredits(
                http,
                BillingJournal(database),
                _billing_routes(settings),
                api_key=key,
                now=now,
                call_seconds=settings.credits_call_timeout,
            )
    base_url, name = odoo_address(settings.credits_url)
    return OdooCredits(
        OdooCalls(
            http,
            base_url=base_url,
            database=name,
            login=settings.credits_login or "",
            api_key=key,
            model=MODEL,
            api=settings.credits_odoo_api,
            deadline_seconds=settings.credits_call_timeout,
        )
    )


def build_prompt_check(settings: Settings, http: httpx.AsyncClient) -> PromptCheck:
    """Return the check of `safety_url`; the moderation endpoint comes after the word lists.

    Raises:
        SafetyFileError: the word lists cannot be used.
    """
    if scheme(settings.safety_url) == "none":
        return WordCheck(())
    words = WordCheck(read_rules(settings.safety_file or STANDARD_FILE))
    if scheme(settings.safety_url) == "words":
        return words
    key = settings.safety_api_key.get_secret_value() if settings.safety_api_key else None
    return ModerationCheck(
        http,
        settings.safety_url.get_secret_value(),
        first=words,
        api_key=key,
        model=settings.safety_model,
        review_above=settings.safety_review_above,
    )


def build_notifier(settings: Settings, http: httpx.AsyncClient, broker: Broker | None) -> Notifier:
    """Return the Notifier of `notify_url`; `broker` is the connection for `amqp(s)://`."""
    match scheme(settings.notify_url):
        case "log":
            return LogNotifier()
        case "amqp" | "amqps":
            assert broker is not None  # noqa: S101 - made for this scheme
            return RabbitMQNotifier(
                broker, queue=settings.notify_queue, channels=settings.notify_channels
            )
        case "http" | "https":
            key = settings.notify_api_key.get_secret_value() if settings.notify_api_key else None
            return HttpNotifier(
                http,
                url=settings.notify_url.get_secret_value(),
                api_key=key,
                channels=list(settings.notify_channels),
            )
    raise AssertionError("settings accept only known schemes")


def _billing_routes(settings: Settings) -> BillingRoutes:
    return BillingRoutes(
        base_url=settings.credits_url.get_secret_value(),
        refund=_route(settings.credits_refund_path),
        lookup=_route(settings.credits_lookup_path),
        plan_names=settings.credits_plan_names,
    )


def _route(path: str) -> str | None:
    return None if path == "none" else path
