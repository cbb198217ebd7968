"""The operators' console."""

from creativeflow.services.aigeneration.web.console import (
    accounts,
    attention,
    overview,
    request,
    requests,
    settings,
)

ROUTERS = (
    overview.router,
    requests.router,
    request.router,
    attention.router,
    accounts.router,
    settings.router,
)
