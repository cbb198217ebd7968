"""A client of the AI generation service: start, follow and steer generations without ever starting
one twice.
"""

from creativeflow.clients.aigeneration.asynchronous import AsyncClient
from creativeflow.clients.aigeneration.blocking import Client
from creativeflow.clients.aigeneration.calls import Retries
from creativeflow.clients.aigeneration.problems import (
    GenerationEndedError,
    GenerationServiceError,
    NoAnswerError,
    ProblemError,
    WaitedTooLongError,
)
from creativeflow.clients.aigeneration.resources import Asset, Generation, Quote

__all__ = [
    "Asset",
    "AsyncClient",
    "Client",
    "Generation",
    "GenerationEndedError",
    "GenerationServiceError",
    "NoAnswerError",
    "ProblemError",
    "Quote",
    "Retries",
    "WaitedTooLongError",
]
