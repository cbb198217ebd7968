"""Pages from templates: escaped, under a strict content policy, whole or only the part that a
script asks for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.web.auth import Visitor
from creativeflow.services.aigeneration.web.sessions import Session, Sessions
from creativeflow.services.aigeneration.web.static_files import StaticFiles

PART = "x-part"
"""The header by which a script asks for one block of a page."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the navigation."""

    title: str
    path: str
    operators: bool = False


SECTIONS = (
    Section("Studio", "/studio"),
    Section("History", "/studio/history"),
    Section("Console", "/console", operators=True),
)


def pages_router(prefix: str = "") -> APIRouter:
    """A router of pages; they are no part of the API's description."""
    return APIRouter(prefix=prefix, include_in_schema=False)


class Pages:
    """Makes pages; one for each application."""

    def __init__(self, settings: Settings, statics: StaticFiles) -> None:
        self._policy = _content_policy(settings.web_picture_origins)
        self._own_pictures = (
            settings.public_url or f"http://{settings.host}:{settings.port}"
        ).rstrip("/")
        self._templates = Environment(
            loader=PackageLoader("creativeflow.services.aigeneration.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.globals |= {"static": statics.url, "sections": SECTIONS}
        self._templates.filters |= {"time": _time, "picture": self.picture}

    def render(
        self, request: Request, name: str, status: int, values: Mapping[str, Any]
    ) -> Response:
        """The page, or the block of it that the header asks for."""
        visitor: Visitor | None = request.scope.get("aigen.visitor")
        known = {
            "visitor": visitor,
            "csrf_field": lambda: _csrf_field(visitor),
            "path": request.url.path,
            "request_id": request.scope.get("aigen.request_id", ""),
        }
        template = self._templates.get_template(name)
        context = {**known, **values}
        part = request.headers.get(PART, "")
        text = (
            _block(template, part, context) if part in template.blocks else template.render(context)
        )
        answer = HTMLResponse(text, status, self._headers(part))
        if visitor and visitor.begun:
            keep_session(request, answer, visitor.session)
        return answer

    def picture(self, url: str) -> str:
        """The address of a picture on a page; empty where a browser cannot show it.

        One that is kept here is found under whatever name the page was reached.
        """
        own = f"{self._own_pictures}/assets/"
        if url.startswith(own):
            return url.removeprefix(self._own_pictures)
        return url if url.startswith("https://") else ""

    def _headers(self, part: str) -> dict[str, str]:
        return {
            "Content-Security-Policy": self._policy,
            "Referrer-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Vary": "X-Part, Cookie, Accept-Language",
        } | ({"X-Part": part} if part else {})


def page(request: Request, name: str, status: int = 200, **values: Any) -> Response:
    """A page, made from the template of this name."""
    pages: Pages = request.app.state.pages
    return pages.render(request, name, status, values)


def see_other(path: str) -> RedirectResponse:
    """What follows a form: a page that can be loaded again without sending it twice."""
    return RedirectResponse(path, 303, {"Cache-Control": "no-store"})


def keep_session(request: Request, answer: Response, session: Session) -> None:
    """Let the browser keep the session.

    Lax, not Strict: a link from another site, and the hand-over from a platform, must find the
    session.
    """
    sessions: Sessions = request.app.state.sessions
    answer.set_cookie(
        sessions.cookie,
        sessions.seal(session),
        max_age=sessions.seconds_left(session),
        path="/",
        secure=sessions.secure,
        httponly=True,
        samesite="lax",
    )


def drop_session(request: Request, answer: Response) -> None:
    """Let the browser forget the session."""
    sessions: Sessions = request.app.state.sessions
    answer.delete_cookie(
        sessions.cookie, path="/", secure=sessions.secure, httponly=True, samesite="lax"
    )


def _content_policy(picture_origins: tuple[str, ...]) -> str:
    pictures = " ".join(("'self'", "data:", *picture_origins))
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"img-src {pictures}",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


def _block(template: Template, name: str, values: Mapping[str, Any]) -> str:
    return "".join(template.blocks[name](template.new_context(dict(values))))


def _csrf_field(visitor: Visitor | None) -> Markup:
    return Markup('<input type="hidden" name="csrf" value="{}">').format(
        visitor.csrf if visitor else ""
    )


def _time(moment: datetime | str) -> Markup:
    """A time that reads the same everywhere, and that a script turns into the reader's own."""
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(), at.strftime("%-d %b %Y, %H:%M UTC")
    )
