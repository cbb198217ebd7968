"""Interactive API documentation, served without external resources."""

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

from creativeflow.services.aigeneration.domain.errors import NotFoundError

_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page(request: Request) -> HTMLResponse:
    """Return the page."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=request.app.title,
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
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
