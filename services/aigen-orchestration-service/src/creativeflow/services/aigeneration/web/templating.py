"""Rendering of templates: escaped, under a strict content security policy, whole or one block."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from creativeflow.services.aigeneration.api.response_headers import path_prefix
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.web.auth import Visitor
from creativeflow.services.aigeneration.web.services import page_support_of, web_services_of
from creativeflow.services.aigeneration.web.sessions import Session
from creativeflow.services.aigeneration.web.static_files import StaticFiles

_ADDRESS = re.compile(r'(\s(?:href|src|action|formaction|data-[a-z]+)=")/(?!/)')
"""An attribute with an address of this service; values are escaped, so none can look like one."""
PART_HEADER = "x-part"
"""The request header with which a script fetches a single block of a page."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the navigation."""

    title: str
    path: str
    operators: bool = False


SECTIONS = (
    Section("Studio", "/studio"),
    Section("History", "/studio/history"),
    Section("Console", "/console", operators=True),
)


def create_page_router(prefix: str = "") -> APIRouter:
    """Create a router for pages, which are not part of the OpenAPI document."""
    return APIRouter(prefix=prefix, include_in_schema=False)


class Pages:
    """Renders pages; one per application."""

    def __init__(self, settings: Settings, statics: StaticFiles) -> None:
        self._policy = _build_content_policy(settings.web_picture_origins)
        self._own_origin = (
            settings.public_url or f"http://{settings.host}:{settings.port}"
        ).rstrip("/")
        self._prefix = path_prefix(settings.public_url)
        self._templates = Environment(
            loader=PackageLoader("creativeflow.services.aigeneration.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.globals |= {"static": statics.get_url, "sections": SECTIONS}
        self._templates.filters |= {"time": _format_time, "image_url": self.get_image_url}

    def render(
        self, request: Request, name: str, status: int, values: Mapping[str, Any]
    ) -> Response:
        """Render a page, or only the block that the request header names."""
        visitor: Visitor | None = request.scope.get("aigen.visitor")
        common = {
            "visitor": visitor,
            "csrf_field": lambda: _render_csrf_field(visitor),
            "path": request.url.path,
            "request_id": request.scope.get("aigen.request_id", ""),
        }
        template = self._templates.get_template(name)
        context = {**common, **values}
        part = request.headers.get(PART_HEADER, "")
        text = (
            _render_block(template, part, context)
            if part in template.blocks
            else template.render(context)
        )
        if self._prefix:
            text = _ADDRESS.sub(rf"\1{self._prefix}/", text)
        response = HTMLResponse(text, status, self._build_headers(part))
        if visitor and visitor.is_new:
            set_session_cookie(request, response, visitor.session)
        return response

    def get_image_url(self, url: str) -> str:
        """Return the address of an image for a page; empty if the browser must not load it.

        An image of this service becomes a relative address, so that it works under whatever host
        name the page was reached.
        """
        own = f"{self._own_origin}/assets/"
        if url.startswith(own):
            return url.removeprefix(self._own_origin)
        return url if url.startswith("https://") else ""

    def _build_headers(self, part: str) -> dict[str, str]:
        return {
            "Content-Security-Policy": self._policy,
            "Referrer-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Vary": "X-Part, Cookie, Accept-Language",
        } | ({"X-Part": part} if part else {})


def render_page(request: Request, name: str, status: int = 200, **values: Any) -> Response:
    """Render the page of this template."""
    return page_support_of(request).pages.render(request, name, status, values)


def redirect_to(path: str) -> RedirectResponse:
    """Redirect after a form (303), so that a reload does not submit it again."""
    return RedirectResponse(path, 303, {"Cache-Control": "no-store"})


def set_session_cookie(request: Request, response: Response, session: Session) -> None:
    """Set the session cookie.

    SameSite is Lax, not Strict: a link from another site and the hand-over from a platform must
    carry the session.
    """
    sessions = web_services_of(request).sessions
    response.set_cookie(
        sessions.cookie,
        sessions.seal(session),
        max_age=sessions.count_seconds_left(session),
        path="/",
        secure=sessions.secure,
        httponly=True,
        samesite="lax",
    )


def clear_session_cookie(request: Request, response: Response) -> None:
    """Delete the session cookie."""
    sessions = web_services_of(request).sessions
    response.delete_cookie(
        sessions.cookie, path="/", secure=sessions.secure, httponly=True, samesite="lax"
    )


def _build_content_policy(image_origins: tuple[str, ...]) -> str:
    images = " ".join(("'self'", "data:", *image_origins))
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"img-src {images}",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


def _render_block(template: Template, name: str, values: Mapping[str, Any]) -> str:
    return "".join(template.blocks[name](template.new_context(dict(values))))


def _render_csrf_field(visitor: Visitor | None) -> Markup:
    return Markup('<input type="hidden" name="csrf" value="{}">').format(
        visitor.csrf if visitor else ""
    )


def _format_time(moment: datetime | str) -> Markup:
    """Format a time in UTC; `live.js` converts it to the local time zone."""
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(), at.strftime("%-d %b %Y, %H:%M UTC")
    )
