"""The services that pages use beside those of the API, as one typed object on the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import Request

    from creativeflow.services.aigeneration.web.console.snapshot import SnapshotCache
    from creativeflow.services.aigeneration.web.sessions import Sessions
    from creativeflow.services.aigeneration.web.static_files import StaticFiles
    from creativeflow.services.aigeneration.web.templating import Pages


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServices:
    """What the pages of one process use; built once by `app.py`."""

    sessions: Sessions
    snapshots: SnapshotCache


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSupport:
    """What pages are rendered with, also before the services exist."""

    pages: Pages
    static_files: StaticFiles


def page_support_of(request: Request) -> PageSupport:
    """Return what the application that handles this request renders pages with."""
    found: PageSupport = request.app.state.page_support
    return found


def web_services_of(request: Request) -> WebServices:
    """Return the page services of the application that handles this request."""
    found: WebServices = request.app.state.web_services
    return found
