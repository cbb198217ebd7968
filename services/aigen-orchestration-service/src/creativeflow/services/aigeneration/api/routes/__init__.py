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

# The router tries them in this order: the most frequent calls come first.
ROUTERS = (
    generation_requests.router,
    callbacks.router,
    stream.router,
    catalogue.router,
    webhook_endpoints.router,
    operations.router,
    accounts.router,
    health.router,
    docs.router,
)
