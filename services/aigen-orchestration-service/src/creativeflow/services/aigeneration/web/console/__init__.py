"""The operators' console."""

from creativeflow.services.aigeneration.web.console import (
    account,
    accounts,
    attention,
    invariants,
    overview,
    queue,
    request,
    requests,
    settings,
)

ROUTERS = (
    overview.router,
    queue.router,
    invariants.router,
    requests.router,
    request.router,
    attention.router,
    accounts.router,
    account.router,
    settings.router,
)
"""In matching order: paths of `accounts` come before the user ids of `account`."""
