"""Client of the AI generation service, synchronous and asynchronous.

Not covered: the callbacks of workers, the metrics for Prometheus, and the pages of studio and
console.
"""

from creativeflow.clients.aigeneration._async.client import AsyncClient
from creativeflow.clients.aigeneration._sync.client import Client
from creativeflow.clients.aigeneration.calls import Retries
from creativeflow.clients.aigeneration.errors import (
    ApiConnectionError,
    GenerationEndedError,
    GenerationServiceError,
    ProblemError,
    WaitTimeoutError,
)
from creativeflow.clients.aigeneration.parameters import BriefChanges, BriefOptions
from creativeflow.clients.aigeneration.resources.generations import (
    Asset,
    Cancellation,
    Generation,
    Quote,
    TimelineEntry,
)
from creativeflow.clients.aigeneration.resources.webhook_endpoints import (
    Delivery,
    WebhookEndpoint,
    WebhookEndpointWithSecret,
)

__all__ = [
    "ApiConnectionError",
    "Asset",
    "AsyncClient",
    "BriefChanges",
    "BriefOptions",
    "Cancellation",
    "Client",
    "Delivery",
    "Generation",
    "GenerationEndedError",
    "GenerationServiceError",
    "ProblemError",
    "Quote",
    "Retries",
    "TimelineEntry",
    "WaitTimeoutError",
    "WebhookEndpoint",
    "WebhookEndpointWithSecret",
]
