"""Interactive API documentation, served without external resources."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

from creativeflow.services.aigeneration.api.response_headers import path_prefix
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain.errors import NotFoundError

_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}

router = APIRouter(include_in_schema=False)


_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@router.get("/docs")
async def page(request: Request) -> HTMLResponse:
    """The page, which runs its own scripts only and cannot be framed."""
    prefix = path_prefix(services_of(request).settings.public_url)
    found = get_swagger_ui_html(
        openapi_url=f"{prefix}/openapi.json",
        title=request.app.title,
        swagger_js_url=f"{prefix}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{prefix}/docs/swagger-ui.css",
        swagger_favicon_url=f"{prefix}/docs/favicon.png",
    )
    found.headers["Content-Security-Policy"] = _content_policy(bytes(found.body).decode())
    found.headers["X-Frame-Options"] = "DENY"
    return found


def _content_policy(page: str) -> str:
    """Return the policy; the framework's inline script is allowed by its digest."""
    digests = (hashlib.sha256(text.encode()).digest() for text in _INLINE_SCRIPT.findall(page))
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' {scripts}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


@router.get("/docs/{name}")
async def part(name: Annotated[str, Path(max_length=50)]) -> Response:
    """Return a script, style sheet or image of the page."""
    if name not in _TYPES:
        raise NotFoundError
    content = (files("fastapi_offline") / "static" / name).read_bytes()
    return Response(
        content, media_type=_TYPES[name], headers={"Cache-Control": "public, max-age=86400"}
    )
