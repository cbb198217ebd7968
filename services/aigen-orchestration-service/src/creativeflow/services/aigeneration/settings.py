"""Settings with type, default and description; `.env.example` and docs/settings.md are generated
from them.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.moderation import WhenAway
from creativeflow.services.aigeneration.domain.outbound_urls import Rules
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import PLANS, Prices, credits_amount
from creativeflow.services.aigeneration.kit.secret_files import SUFFIX, read_secret_files
from creativeflow.services.aigeneration.kit.secret_strength import (
    is_digest_of_nothing,
    is_guessable,
)

ROLES = ("api", "dispatcher", "results", "relay", "sweeper")
SECRET_LENGTH_MIN = 24
SECRET_BITS_MIN = 54.0
API_KEY_BITS_MIN = 28.0
"""Estimated entropy: random secrets and keys of the least length have more, in hexadecimal too."""
_WEB_URL = re.compile(r"https?://[^/?#\s]+\S*", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


def _comma_list(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def _amount(value: Any) -> Any:
    return credits_amount(value) if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    parts = [part.partition("=") for part in _comma_list(value)]
    if not all(name.strip() and equals and value.strip() for name, equals, value in parts):
        raise ValueError("use name=value, separated by commas")
    return {name.strip().lower(): value.strip().lower() for name, _, value in parts}


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [value for value in values if not _ORIGIN.fullmatch(value)]:
        raise ValueError(
            f"an origin is https://host or https://host:port, nothing after it; not one: {wrong[0]}"
        )
    return values


def _picture_origins(values: tuple[str, ...]) -> tuple[str, ...]:
    _origins(tuple(value.replace("://*.", "://", 1) for value in values if value != "https:"))
    return values


Pairs = Annotated[dict[str, str], NoDecode, BeforeValidator(_pairs)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)]
Credits = Annotated[int, BeforeValidator(_amount), Field(ge=0, le=1_000_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 366)]


def _alias(name: str, *older: str) -> AliasChoices:
    return AliasChoices(f"AIGEN_{name.upper()}", *older)


_PORT_MAX = 65_535


class ApiKey:
    """An API key of a service or an operator; only its SHA-256 is stored."""

    __slots__ = ("_digest", "guessable", "name", "role")

    def __init__(self, name: str, role: str, digest: str, *, guessable: bool = False) -> None:
        self.name, self.role, self._digest = name, role, digest
        self.guessable = guessable

    def __repr__(self) -> str:
        return f"ApiKey({self.name}, {self.role})"

    def matches(self, key: str) -> bool:
        """Return whether this is the key, compared in constant time."""
        return self.has_digest(hashlib.sha256(key.encode()).hexdigest())

    def is_same_key(self, other: "ApiKey") -> bool:
        """Return whether the other has the same key, under whatever name."""
        return other.has_digest(self._digest)

    def has_digest(self, digest: str) -> bool:
        """Return whether this is the SHA-256 of the key."""
        return hmac.compare_digest(self._digest, digest)

    def fingerprint(self, secret: bytes) -> str:
        """Return a keyed hash of name, role and key, which reveals nothing without the secret."""
        identity = f"{self.name}:{self.role}:{self._digest}".encode()
        return hmac.digest(secret, identity, hashlib.sha256).hex()[:32]

    def has_fingerprint(self, fingerprint: str, secret: bytes) -> bool:
        """Return whether the fingerprint belongs to this key, compared in constant time."""
        return hmac.compare_digest(self.fingerprint(secret), fingerprint)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `name:role:key` or `name:role:sha256$hex`.

        Raises:
            ValueError: another shape, an unknown role, a short key, or the digest of nothing.
        """
        name, _, rest = text.partition(":")
        role, _, key = rest.partition(":")
        if not name or role not in {"service", "operator"} or not key:
            raise ValueError("an API key is name:role:key with the role service or operator")
        if key.startswith("sha256$"):
            digest = key.removeprefix("sha256$").lower()
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(
                    f"the API key of {name} has no SHA-256 of 64 hexadecimal digits after sha256$"
                )
            if is_digest_of_nothing(digest):
                raise ValueError(
                    f"the API key of {name} is the digest of an empty text: hash the key itself"
                )
            return cls(name, role, digest)
        if len(key) < 16:  # noqa: PLR2004 - shorter keys can be guessed
            raise ValueError(f"the API key of {name} is too short: use at least 16 characters")
        guessable = is_guessable(key, bits=API_KEY_BITS_MIN)
        return cls(name, role, hashlib.sha256(key.encode()).hexdigest(), guessable=guessable)


class Settings(BaseSettings):
    """All settings, read once from the environment and `.env`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_prefix="AIGEN_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    profile: Literal["embedded", "production"] = Field(
        "embedded",
        description=(
            "`embedded`: everything in one process, open on loopback. `production`: refuses "
            "insecure defaults and missing secrets."
        ),
    )
    data_dir: Path = Field(
        Path("~/.local/share/aigen"),
        description=(
            "Directory of the embedded database, stored pictures and the generated callback secret."
        ),
    )
    database_url: SecretStr | None = Field(
        None,
        validation_alias=_alias("database_url", "DATABASE_URL"),
        description=(
            "`postgresql://user:password@host:5432/database`. Unset: an embedded PostgreSQL "
            "in the data directory."
        ),
    )
    engine_url: SecretStr = Field(
        SecretStr("local://"),
        validation_alias=_alias("engine_url", "RABBITMQ_URL"),
        description=(
            "`local://` draws pictures in the service; `amqp(s)://user:password@host/vhost` "
            "queues jobs for n8n."
        ),
    )
    credits_url: SecretStr = Field(
        SecretStr("local://"),
        validation_alias=_alias("credits_url", "CREDIT_SERVICE_API_URL"),
        description=(
            "`local://` keeps credits in the service's database, `http(s)://adapter/api/v1` "
            "in a billing adapter, `odoo+https://host[:port]/database` in an Odoo with the "
            "addon `creativeflow_aigen`."
        ),
    )
    credits_login: str | None = Field(
        None, description="Login of the Odoo user that `credits_api_key` belongs to."
    )
    credits_api_key: SecretStr | None = Field(
        None,
        validation_alias=_alias("credits_api_key", "CREDIT_SERVICE_API_KEY"),
        description=(
            "Key for the credit service: X-Internal-API-Key of the billing adapter, or an API "
            "key of Odoo."
        ),
    )
    credits_refund_path: str = Field(
        "/users/{user_id}/credits/refund",
        description=(
            "Path of the billing adapter's refund route; `none` if it has none, so that "
            "refunds wait for an operator."
        ),
    )
    credits_lookup_path: str = Field(
        "none",
        description=(
            "Path of the billing adapter's look-up route, such as "
            "`/users/{user_id}/credits/operations/{key}`; `none` if it has none."
        ),
    )
    credits_plan_names: Pairs = Field(
        {},
        description=(
            "Plan names of the billing adapter and the plans they mean, such as "
            "`Professional=pro,Basic=free`."
        ),
    )
    credits_odoo_api: Literal["auto", "json2", "jsonrpc"] = Field(
        "auto",
        description=(
            "API of Odoo: `json2` from version 19, `jsonrpc` before; `auto` asks Odoo for its "
            "version once."
        ),
    )
    credits_call_timeout: Seconds = Field(
        10, description="Seconds that one operation may take at the credit service."
    )
    notify_url: SecretStr = Field(
        SecretStr("log://"),
        validation_alias=_alias("notify_url", "NOTIFICATION_SERVICE_API_URL"),
        description=(
            "Notification service: `log://`, `amqp(s)://user:password@host/vhost` or "
            "`http(s)://host/path`."
        ),
    )
    notify_api_key: SecretStr | None = Field(
        None, description="X-Internal-API-Key of notifications over HTTP."
    )
    notify_channels: Words = Field(
        ("websocket",), description="`target_channels` of every notification."
    )
    notify_queue: str = Field(
        "ai_updates_notifications", description="Queue of the notification service."
    )
    public_url: str | None = Field(
        None,
        validation_alias=_alias("public_url", "N8N_CALLBACK_BASE_URL"),
        description=(
            "Base URL of callbacks and pictures, with scheme. Unset: host and port of this process."
        ),
    )
    callback_secret: SecretStr | None = Field(
        None,
        validation_alias=_alias("callback_secret", "N8N_CALLBACK_SECRET"),
        description=(
            "Secret that signs the callback tokens of jobs; two, comma-separated, during a "
            "rotation. Unset: generated once in the data directory."
        ),
    )
    field_names: Literal["current", "older"] = Field(
        "current",
        description=(
            "`older` sends jobs with the camelCase field names of older workflows; their "
            "results are read in both settings."
        ),
    )
    allow_missing_job_id: bool = Field(
        False,
        description="Accept signed results without `job_id` for the current job of the request.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_comma_list)] = Field(
        (),
        description=(
            "API keys as `name:role:key` or `name:role:sha256$hex`, comma-separated; the role "
            "is `service` or `operator`."
        ),
    )
    jwt_secret: SecretStr | None = Field(
        None,
        description=(
            "HS256 secret of end-user tokens; two, comma-separated, during a rotation: either may "
            "have signed a token."
        ),
    )
    jwks_url: str | None = Field(
        None,
        validation_alias=_alias("jwks_url", "AIGEN_JWT_JWKS_URL"),
        description="URL of the key set for RS256 and ES256 end-user tokens.",
    )
    jwt_audience: str | None = Field(None, description="Audience that end-user tokens must have.")
    jwt_issuer: str | None = Field(None, description="Issuer that end-user tokens must have.")
    webhook_endpoints_max: Annotated[int, Field(ge=0, le=1000)] = Field(
        10, description="Maximum number of webhook endpoints per API key; 0 turns webhooks off."
    )
    webhook_allowed_networks: Words = Field(
        (),
        description=(
            "Private networks that webhooks may call in addition to the internet, such as "
            "10.1.0.0/16."
        ),
    )
    webhook_allow_http: bool = Field(
        False, description="Allow webhooks over plain http on the internet."
    )
    webhook_ports: Words = Field(
        ("80", "443", "8443"),
        description="Ports that webhooks may call on the internet; in allowed networks every port.",
    )
    webhook_timeout: Seconds = Field(
        15, description="Seconds that a receiver has to answer a webhook."
    )
    webhook_log_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        30, description="Days that finished webhook deliveries are kept and can be replayed."
    )
    result_check: Literal["fetch", "stored", "off"] = Field(
        "fetch",
        description=(
            "Check of results before they count: `fetch` downloads every picture, `stored` "
            "checks only pictures uploaded to this service, `off` checks nothing (for "
            "trials)."
        ),
    )
    result_allowed_networks: Words = Field(
        (),
        description=(
            "Private networks that pictures of workers may be fetched from in addition to the "
            "internet, such as 10.1.0.0/16."
        ),
    )
    result_allow_http: bool = Field(
        True, description="Allow fetching pictures of workers over plain http on the internet."
    )
    result_ports: Words = Field(
        ("80", "443", "8443"),
        description=(
            "Ports that pictures of workers may be fetched from on the internet; in allowed "
            "networks every port."
        ),
    )
    result_timeout: Annotated[float, Field(gt=0, le=240)] = Field(
        20, description="Seconds for all attempts to fetch one picture of a result."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port to listen on.")
    roles: Words = Field(
        ROLES, description="Roles of this process; every role may run in any number of processes."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="`json`: one object per line; `console`: coloured text."
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0,
        description=(
            "Port of /metrics for a process without the role api, on the same host; 0 for none."
        ),
    )
    database_pool_size: Annotated[int, Field(ge=2, le=200)] = Field(
        10, description="Maximum number of database connections per process."
    )
    web_origins: Annotated[Words, AfterValidator(_origins)] = Field(
        (),
        description=(
            "Origins of platforms that may sign their users in to the studio, such as "
            "`https://app.example.com`."
        ),
    )
    web_picture_origins: Annotated[Words, AfterValidator(_picture_origins)] = Field(
        ("https:",),
        description=(
            "Other origins that pages may show pictures from: `https:` for all, or origins "
            "such as `https://*.example.com`."
        ),
    )
    web_top_up_url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = Field(
        None,
        description=(
            "URL of the page where users buy credits or change their plan; the studio links to it."
        ),
    )
    web_upload_bytes: Annotated[int, Field(ge=1024)] = Field(
        10_485_760,
        description="Maximum bytes of a reference picture that is uploaded in the studio.",
    )
    web_uploads_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        200, description="Maximum number of reference pictures per user within `web_uploads_days`."
    )
    web_uploads_bytes: Annotated[int, Field(ge=1024)] = Field(
        536_870_912,
        description=(
            "Maximum stored bytes of a user's reference pictures within `web_uploads_days`."
        ),
    )
    web_uploads_days: Annotated[int, Field(ge=1, le=366)] = Field(
        30, description="Days for which the reference pictures of a user are counted."
    )
    job_uploads_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        32, description="Maximum number of pictures that a worker may upload for one job."
    )
    job_uploads_bytes: Annotated[int, Field(ge=1024)] = Field(
        268_435_456, description="Maximum bytes of all pictures of one job."
    )
    body_limit_bytes: Annotated[int, Field(ge=1024)] = Field(
        262_144, description="Maximum bytes of a request body."
    )
    asset_limit_bytes: Annotated[int, Field(ge=1024)] = Field(
        67_108_864, description="Maximum bytes of an uploaded or fetched picture."
    )
    require_idempotency_key: bool = Field(
        False, description="Refuse state-changing calls without Idempotency-Key."
    )
    rate_limit_per_minute: Annotated[int, Field(ge=0)] = Field(
        0, description="State-changing calls per caller and minute in each process; 0 for no limit."
    )
    rate_limit_key_per_minute: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "State-changing calls per API key and minute in each process, those for all users "
            "together; 0 for no limit."
        ),
    )
    authentication_failures_per_minute: Annotated[int, Field(ge=0)] = Field(
        30,
        description=(
            "Wrong keys, tokens and sign-ins per client address and minute in each process, after "
            "which the address is locked out for the rest of the minute; 0 for no limit."
        ),
    )
    trusted_proxies: Words = Field(
        (),
        description=(
            "Addresses and networks of reverse proxies whose X-Forwarded-For and "
            "X-Forwarded-Proto are used, such as 127.0.0.1 or 10.0.0.0/8."
        ),
    )
    idempotency_hours: Annotated[int, Field(ge=72)] = Field(
        96, description="Hours that responses are kept for Idempotency-Key."
    )
    price_samples: Credits = Field(25, description="Credits for a set of samples, such as 0.25.")
    price_final: Credits = Field(100, description="Credits for a final of standard resolution.")
    price_final_high_resolution: Credits = Field(
        200, description="Credits for a final of high resolution."
    )
    high_resolution_above: Annotated[int, Field(ge=64, le=4096)] = Field(
        1920, description="Longest side in pixels above which a final has high resolution."
    )
    free_generations: Annotated[int, Field(ge=0)] = Field(
        100, description="Generations per month on the Free plan."
    )
    in_flight_limits: Annotated[
        dict[str, Annotated[int, Field(ge=1)]], NoDecode, BeforeValidator(_pairs)
    ] = Field(
        {},
        description=(
            "Maximum jobs of one user with workers per lane, by plan; unset: "
            f"`{','.join(f'{plan.name}={plan.in_flight}' for plan in PLANS.values())}`."
        ),
    )
    routing_file: Path | None = Field(
        None,
        description=(
            "TOML file with models and routing rules, reloaded when it changes. Unset: three "
            "built-in models."
        ),
    )
    quote_validity: Seconds = Field(
        900, description="Seconds that the prices of a quote are binding."
    )
    charge_rejected: bool = Field(
        True, description="Capture the hold of samples when the provider rejects the prompt."
    )
    safety_url: SecretStr = Field(
        SecretStr("words://"),
        description=(
            "Prompt check: `words://` uses word lists, `https://host/v1/moderations` also "
            "asks a moderation endpoint, `none://` is off."
        ),
    )
    safety_file: Path | None = Field(
        None, description="TOML file with word lists that replace the built-in ones."
    )
    safety_api_key: SecretStr | None = Field(
        None, description="Bearer token for the moderation endpoint."
    )
    safety_model: str | None = Field(
        None, description="Model that is named to the moderation endpoint."
    )
    safety_review_above: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="Score of the moderation endpoint above which an operator reviews the prompt.",
    )
    safety_when_away: WhenAway = Field(
        WhenAway.REFUSE,
        description=(
            "While the moderation endpoint does not answer: `refuse` (503), `review` by an "
            "operator, or `allow`."
        ),
    )
    safety_abuse_after: Annotated[int, Field(ge=1)] = Field(
        3, description="Severe rejections within a day after which an account is restricted."
    )
    dispatch_deadline: Seconds = Field(
        3600, description="Seconds that a job may wait for dispatch."
    )
    samples_deadline: Seconds = Field(300, description="Seconds that a worker has for samples.")
    final_deadline: Seconds = Field(600, description="Seconds that a worker has for the final.")
    selection_deadline: Seconds = Field(
        2_592_000, description="Seconds that a user has to select a sample (30 days)."
    )
    expiry_reminder: Seconds = Field(
        259_200,
        description="Seconds before the selection deadline at which the user is reminded (3 days).",
    )
    review_deadline: Seconds = Field(
        259_200, description="Seconds that an operator has to review a prompt (3 days)."
    )
    job_lease: Seconds = Field(
        60, description="Seconds that a dispatcher has to publish a leased job."
    )
    retry_delay: Seconds = Field(
        2, description="Seconds before the second attempt; doubled for each further one."
    )
    hold_timeout: Seconds = Field(
        5, description="Seconds that a call waits for the credit service."
    )
    worker_quiet: Seconds = Field(
        120,
        description=(
            "Seconds without any report of a worker after which waiting jobs count as stalled."
        ),
    )
    sweep_interval: Seconds = Field(2, description="Seconds between checks of deadlines.")
    reconcile_interval: Seconds = Field(
        3600, description="Seconds between reconciliations of holds with the credit service."
    )
    usage_days: Annotated[int, Field(ge=31)] = Field(
        731, description="Days that the usage log is kept (24 months)."
    )
    poll_interval: Seconds = Field(
        1, description="Longest pause in seconds before a role polls the database again."
    )
    max_attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        3, description="Maximum attempts per stage and round."
    )
    max_rounds: Annotated[int, Field(ge=1, le=100)] = Field(
        10, description="Maximum rounds of samples per request."
    )
    lane_window: Annotated[int, Field(ge=1, le=100_000)] = Field(
        100,
        description=(
            "Maximum unfinished jobs per lane in the broker: the rate times the duration of a "
            "job, and no more than workers finish within the deadline of a job."
        ),
    )
    local_workers: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="Pictures that the local engine draws concurrently."
    )
    local_fault: str = Field(
        "", description="Fault that the local engine injects, such as `partial`; for trials."
    )
    rabbitmq_job_exchange: str = Field(
        "ex.creativeflow.direct", description="Direct exchange of jobs."
    )
    rabbitmq_topic_exchange: str = Field(
        "ex.creativeflow.topic", description="Topic exchange of results and events."
    )
    rabbitmq_dead_letter_exchange: str = Field(
        "ex.dead_letter", description="Fanout exchange of dead letters."
    )
    rabbitmq_samples_routing_key: str = Field(
        "ai.generation.request", description="Routing key of samples jobs."
    )
    rabbitmq_final_routing_key: str = Field(
        "ai.generation.final", description="Routing key of final jobs."
    )
    rabbitmq_samples_queue: str = Field(
        "q.ai_generation.pending", description="Queue of samples jobs."
    )
    rabbitmq_final_queue: str = Field(
        "q.ai_generation.final_request", description="Queue of final jobs."
    )
    rabbitmq_results_queue: str = Field(
        "q.aigen.results", description="Queue of results, consumed by this service."
    )
    rabbitmq_dead_queue: str = Field(
        "q.aigen.dead", description="Queue of dead letters, consumed by this service."
    )
    rabbitmq_delivery_limit: Annotated[int, Field(ge=1)] = Field(
        5, description="Deliveries of a message before it is dead-lettered."
    )
    rabbitmq_prefetch: Annotated[int, Field(ge=1, le=1000)] = Field(
        50, description="Results that are handled concurrently."
    )

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, roles: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(roles) - set(ROLES))
        if unknown or not roles:
            raise ValueError(
                f"roles are {', '.join(ROLES)}; not known: {', '.join(unknown) or 'none given'}"
            )
        return roles

    @field_validator("api_keys")
    @classmethod
    def _readable_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in keys:
            ApiKey.parse(key.get_secret_value())
        return keys

    @field_validator("public_url", "jwks_url")
    @classmethod
    def _has_scheme(cls, url: str | None) -> str | None:
        if url is not None and not _WEB_URL.fullmatch(url):
            raise ValueError(
                "a URL with http:// or https:// and a host is needed, such as"
                " https://aigen.example.com"
            )
        return url

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and scheme(url) not in {"postgresql", "postgres"}:
            raise ValueError("a URL postgresql://user:password@host:5432/database is needed")
        return url

    @field_validator("webhook_allowed_networks", "result_allowed_networks", "trusted_proxies")
    @classmethod
    def _readable_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)
        return networks

    @field_validator("webhook_ports", "result_ports")
    @classmethod
    def _readable_ports(cls, ports: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [port for port in ports if not _is_port(port)]:
            raise ValueError(f"ports are numbers from 1 to 65535; not one: {', '.join(wrong)}")
        return ports

    @field_validator("data_dir")
    @classmethod
    def _whole_path(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @model_validator(mode="after")
    def _plans_are_known(self) -> Self:
        unknown = {*self.in_flight_limits, *self.credits_plan_names.values()} - set(PLANS)
        if unknown:
            raise ValueError(
                f"plans are {', '.join(PLANS)}; not known: {', '.join(sorted(unknown))}"
            )
        return self

    @model_validator(mode="after")
    def _urls_are_known(self) -> Self:
        for name, url, known in (
            ("AIGEN_ENGINE_URL", self.engine_url, {"local", "amqp", "amqps"}),
            (
                "AIGEN_CREDITS_URL",
                self.credits_url,
                {"local", "http", "https", "odoo+http", "odoo+https"},
            ),
            ("AIGEN_SAFETY_URL", self.safety_url, {"words", "none", "http", "https"}),
            ("AIGEN_NOTIFY_URL", self.notify_url, {"log", "amqp", "amqps", "http", "https"}),
        ):
            if scheme(url) not in known:
                choices = ", ".join(f"{each}://" for each in sorted(known))
                begins = f"begins with {scheme(url)}://" if scheme(url) else "has no scheme"
                raise ValueError(f"{name} {begins}; known schemes are {choices}")
        return self

    @model_validator(mode="after")
    def _odoo_is_complete(self) -> Self:
        if scheme(self.credits_url).startswith("odoo+"):
            odoo_address(self.credits_url)
            if not self.credits_login or not self.credits_api_key:
                raise ValueError(
                    "credits in Odoo need AIGEN_CREDITS_LOGIN and AIGEN_CREDITS_API_KEY"
                )
        return self

    @model_validator(mode="after")
    def _fit_for_production(self) -> Self:
        if self.profile == "production" and (missing := self.missing_for_production()):
            raise ValueError("the production profile needs " + "; ".join(missing))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the framework's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read secrets from the files that `…_FILE` variables name, beside the variables."""
        sources = (env_settings, dotenv_settings)
        return (
            init_settings,
            *(
                each
                for source in sources
                if isinstance(source, EnvSettingsSource)
                for each in (source, _SecretFiles(settings_cls, source.env_vars))
            ),
        )

    @classmethod
    def secret_variables(cls) -> dict[str, list[str]]:
        """Return the environment variables of each secret in lower case, older names included."""
        return {
            name: [str(each).lower() for each in getattr(field.validation_alias, "choices", ())]
            or [f"aigen_{name}"]
            for name, field in cls.model_fields.items()
            if "SecretStr" in str(field.annotation)
        }

    @classmethod
    def variables(cls) -> set[str]:
        """Return the environment variables that are read, in upper case, older names included."""
        names = {f"AIGEN_{name.upper()}" for name in cls.model_fields}
        for described in cls.model_fields.values():
            alias = described.validation_alias
            if isinstance(alias, AliasChoices):
                names |= {str(name).upper() for name in alias.choices}
        secrets = (name for names in cls.secret_variables().values() for name in names)
        return names | {f"{name}{SUFFIX}".upper() for name in secrets}

    def missing_for_production(self) -> list[str]:
        """Return the settings that the profile `production` requires and that are missing."""
        checks = {
            "AIGEN_DATABASE_URL": self.database_url is not None,
            "AIGEN_ENGINE_URL (amqp…)": scheme(self.engine_url).startswith("amqp"),
            "AIGEN_PUBLIC_URL": bool(self.public_url),
            "https in AIGEN_PUBLIC_URL, or AIGEN_TRUSTED_PROXIES": (
                not (self.public_url or "").lower().startswith("http:")
                or bool(self.trusted_proxies)
            ),
            "another login than guest:guest in AIGEN_ENGINE_URL and AIGEN_NOTIFY_URL": not any(
                _has_guest_login(url) for url in (self.engine_url, self.notify_url)
            ),
            f"AIGEN_CALLBACK_SECRET of {SECRET_LENGTH_MIN} characters or more": (
                all(len(secret) >= SECRET_LENGTH_MIN for secret in self.callback_secrets())
                and bool(self.callback_secrets())
            ),
            "AIGEN_API_KEYS, AIGEN_JWT_SECRET or AIGEN_JWKS_URL": not self.open_to_all,
            "AIGEN_CREDITS_API_KEY": (
                scheme(self.credits_url) == "local" or self.credits_api_key is not None
            ),
            f"an AIGEN_JWT_SECRET of {SECRET_LENGTH_MIN + 8} characters or more": (
                all(len(secret) >= SECRET_LENGTH_MIN + 8 for secret in self.jwt_secrets())
            ),
            "AIGEN_JWT_AUDIENCE and AIGEN_JWT_ISSUER beside AIGEN_JWT_SECRET or AIGEN_JWKS_URL": (
                not (self.jwt_secret or self.jwks_url)
                or bool(self.jwt_audience and self.jwt_issuer)
            ),
            "https in AIGEN_JWKS_URL": not (self.jwks_url or "").lower().startswith("http:"),
        } | self._checks_of_secrets()
        return [name for name, there in checks.items() if not there]

    def _checks_of_secrets(self) -> dict[str, bool]:
        """Return which secrets and keys are random and unambiguous."""
        keys = self.keys()
        pairs = list(combinations(keys, 2))
        guessable = {
            "AIGEN_CALLBACK_SECRET": self.callback_secrets(),
            "AIGEN_JWT_SECRET": self.jwt_secrets(),
        }
        return {
            f"a random {name}, such as of `openssl rand -base64 32`": not any(
                is_guessable(secret, bits=SECRET_BITS_MIN) for secret in secrets
            )
            for name, secrets in guessable.items()
        } | {
            "random keys in AIGEN_API_KEYS, such as of `openssl rand -base64 32`": not any(
                key.guessable for key in keys
            ),
            "one role for each name in AIGEN_API_KEYS": all(
                one.role == other.role for one, other in pairs if one.name == other.name
            ),
            "a key of its own for each name in AIGEN_API_KEYS": not any(
                one.is_same_key(other) for one, other in pairs if one.name != other.name
            ),
        }

    @property
    def open_to_all(self) -> bool:
        """Whether every caller has all rights, because neither API keys nor JWT settings
        are set.
        """
        return not (self.api_keys or self.jwt_secret or self.jwks_url)

    def callback_secrets(self) -> Sequence[str]:
        """Return the callback secrets, the signing one first."""
        return _comma_list(self.callback_secret.get_secret_value()) if self.callback_secret else []

    def jwt_secrets(self) -> Sequence[str]:
        """Return the secrets that may have signed end-user tokens."""
        return _comma_list(self.jwt_secret.get_secret_value()) if self.jwt_secret else []

    def keys(self) -> list[ApiKey]:
        """Return the API keys, hashed."""
        return [ApiKey.parse(key.get_secret_value()) for key in self.api_keys]

    def policy(self) -> Policy:
        """Return the limits, prices and deadlines of the domain."""
        return Policy(
            prices=Prices(
                sample_set=self.price_samples,
                final=self.price_final,
                high_resolution_final=self.price_final_high_resolution,
                high_resolution_above=self.high_resolution_above,
            ),
            dispatch_deadline=timedelta(seconds=self.dispatch_deadline),
            samples_deadline=timedelta(seconds=self.samples_deadline),
            final_deadline=timedelta(seconds=self.final_deadline),
            selection_deadline=timedelta(seconds=self.selection_deadline),
            expiry_reminder=timedelta(seconds=self.expiry_reminder),
            review_deadline=timedelta(seconds=self.review_deadline),
            job_lease=timedelta(seconds=self.job_lease),
            retry_delay=timedelta(seconds=self.retry_delay),
            max_attempts=self.max_attempts,
            max_rounds=self.max_rounds,
            free_generations=self.free_generations,
            in_flight={plan.name: plan.in_flight for plan in PLANS.values()}
            | self.in_flight_limits,
            quote_validity=timedelta(seconds=self.quote_validity),
            charge_rejected=self.charge_rejected,
            publish_events=scheme(self.engine_url).startswith("amqp"),
            webhooks=self.webhook_endpoints_max > 0,
        )

    def webhook_rules(self) -> Rules:
        """Return the rules for the URLs of webhooks."""
        return Rules(
            networks=[ip_network(network) for network in self.webhook_allowed_networks],
            ports=frozenset(int(port) for port in self.webhook_ports),
            allow_http=self.webhook_allow_http,
        )

    def result_rules(self) -> Rules:
        """Return the rules for the URLs of workers' pictures."""
        return Rules(
            networks=[ip_network(network) for network in self.result_allowed_networks],
            ports=frozenset(int(port) for port in self.result_ports),
            allow_http=self.result_allow_http,
            settings="AIGEN_RESULT",
        )

    def routing_keys(self) -> dict[Stage, str]:
        """Return the routing key of the jobs of each stage."""
        return {
            Stage.SAMPLES: self.rabbitmq_samples_routing_key,
            Stage.FINAL: self.rabbitmq_final_routing_key,
        }


class _SecretFiles(PydanticBaseSettingsSource):
    """The secrets of the files that these variables name."""

    def __init__(
        self, settings_cls: type[BaseSettings], variables: Mapping[str, str | None]
    ) -> None:
        super().__init__(settings_cls)
        self._variables = variables

    def get_field_value(
        self,
        field: FieldInfo,  # noqa: ARG002 - the framework's signature
        field_name: str,
    ) -> tuple[Any, str, bool]:
        """Return nothing: all values are read together."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values under the names that the variables have.

        Raises:
            SecretFileError: a file cannot be used.
        """
        return {
            names[0].upper() if _is_aliased(field) else field: value
            for field, names in Settings.secret_variables().items()
            for _, value in read_secret_files(self._variables, names)
        }


def _is_aliased(field: str) -> bool:
    return isinstance(Settings.model_fields[field].validation_alias, AliasChoices)


def _has_guest_login(url: SecretStr) -> bool:
    """Return whether a broker URL logs in as guest:guest, as one without a login does."""
    if not scheme(url).startswith("amqp"):
        return False
    parts = urlsplit(url.get_secret_value())
    login = [unquote(part) for part in (parts.username or "guest", parts.password or "guest")]
    return login == ["guest", "guest"]


def odoo_address(url: SecretStr) -> tuple[str, str]:
    """Return base URL and database of `odoo+https://host[:port]/database`.

    Raises:
        ValueError: the URL is malformed, or contains credentials, which would be logged.
    """
    address = url.get_secret_value().removeprefix("odoo+")
    match = re.fullmatch(r"(https?://[^/@?#\s]+)/([^/@?#\s]+)/?", address)
    if match is None:
        raise ValueError("credits in Odoo are at odoo+https://host[:port]/database")
    return match[1], match[2]


def scheme(url: SecretStr) -> str:
    """Return the scheme of a URL in lower case, which selects the adapter; empty without `://`."""
    before, separator, _ = url.get_secret_value().partition("://")
    return before.lower() if separator else ""


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= _PORT_MAX
