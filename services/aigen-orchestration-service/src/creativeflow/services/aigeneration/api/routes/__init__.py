"""The endpoints of the JSON API, one module per resource."""

from creativeflow.services.aigeneration.api.routes import (
    accounts,
    callbacks,
    catalogue,
    docs,
    generation_requests,
    health,
    operations,
    stream,
    webhook_endpoints,
)

ROUTERS = (
    generation_requests.router,
    stream.router,
    catalogue.router,
    callbacks.router,
    webhook_endpoints.router,
    operations.router,
    accounts.router,
    health.router,
    docs.router,
)
