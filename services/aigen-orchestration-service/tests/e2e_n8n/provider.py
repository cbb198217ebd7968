"""Fake external services: image APIs of OpenAI and Stability with failures, and S3 storage."""

import base64
import io
import json
import random
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

from PIL import Image

_LOCATION = b'<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/">us-east-1</LocationConstraint>'
_FAILURES: dict[str, tuple[int, dict[str, Any]]] = {
    "down": (503, {"error": {"code": "overloaded", "message": "no capacity"}}),
    "busy": (429, {"error": {"code": "rate_limit_exceeded", "message": "slow down"}}),
    "refusing": (
        400,
        {"error": {"code": "moderation_blocked", "message": "rejected by the safety system"}},
    ),
}


class Provider:
    """Serves during the block; `mood` is well, by_url, down, busy or refusing."""

    def __init__(self) -> None:
        provider = self
        self.mood = "well"
        self.asked: Counter[str] = Counter()
        self.kept: dict[str, bytes] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                provider.answer(self, self.rfile.read(length))

            def do_PUT(self) -> None:
                signed = self.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 ")
                if signed:
                    provider.kept[self.path.partition("?")[0]] = self.rfile.read(
                        int(self.headers["content-length"])
                    )
                _send(self, 200 if signed else 403, "application/xml", b"")

            def do_GET(self) -> None:
                if "?location" in self.path:
                    _send(self, 200, "application/xml", _LOCATION)
                else:
                    kept = provider.kept.get(self.path)
                    _send(self, 200, "application/octet-stream", kept or _picture(512, 512, "PNG"))

            def log_message(self, *_: Any) -> None:
                """Log nothing, because the run prints its own table."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Respond to one call as the provider does."""
        self.asked[handler.path] += 1
        if "authorization" not in {name.lower() for name in handler.headers}:
            return _send_json(handler, 401, {"error": {"message": "no key"}})
        if handler.path.endswith("/moderations"):
            flagged = b"[[unsafe]]" in body
            return _send_json(handler, 200, {"results": [{"flagged": flagged}]})
        if self.mood in _FAILURES:
            return _send_json(handler, *_FAILURES[self.mood])
        if "/stable-image/" in handler.path:
            return _send(handler, 200, "image/jpeg", _picture(1152, 896, "JPEG"))
        asked = json.loads(body) if handler.path.endswith("/generations") else {"size": "1024x1024"}
        width, height = (int(side) for side in asked["size"].split("x"))
        kind = "JPEG" if asked.get("output_format") == "jpeg" else "PNG"
        if self.mood == "by_url":
            return _send_json(handler, 200, {"data": [{"url": f"{self.url}/picture.png"}]})
        encoded = base64.b64encode(_picture(width, height, kind)).decode()
        return _send_json(handler, 200, {"data": [{"b64_json": encoded}]})


def _picture(width: int, height: int, kind: str) -> bytes:
    """Return a new picture."""
    colours = random.Random()  # noqa: S311 - no secret
    small = Image.new("RGB", (8, 8))
    small.putdata(
        [
            (colours.randrange(256), colours.randrange(256), colours.randrange(256))
            for _ in range(64)
        ]
    )
    out = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def _send_json(handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
    _send(handler, status, "application/json", json.dumps(body).encode())


def _send(handler: BaseHTTPRequestHandler, status: int, kind: str, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
