"""Headers that browsers protect by, and addresses under the public URL, on every response."""

from collections.abc import Iterable
from urllib.parse import urlsplit

Header = tuple[bytes, bytes]

_API = "/api/"
_ASSETS = "/assets/"
_HSTS = (b"strict-transport-security", b"max-age=31536000")
_NO_STORE = (b"cache-control", b"no-store")


def path_prefix(public_url: str | None) -> str:
    """Return the path of the public URL, under which a proxy publishes the service."""
    return urlsplit(public_url or "").path.rstrip("/")


class ResponseHeaders:
    """Completes the headers of responses."""

    def __init__(self, public_url: str | None) -> None:
        base = (public_url or "").rstrip("/")
        self._base, self._prefix = base.encode(), path_prefix(public_url).encode()
        self._common: list[Header] = [
            (b"x-content-type-options", b"nosniff"),
            (b"cross-origin-opener-policy", b"same-origin"),
        ]
        if base.lower().startswith("https:"):
            self._common.append(_HSTS)

    def complete(self, path: str, headers: Iterable[Header]) -> list[Header]:
        """Return the headers of a response to this path, with those that are missing.

        Pictures may be shown by other sites, and API responses are not stored by any cache unless
        their endpoint allows it.
        """
        is_api = path.startswith(_API)
        found = [
            (name, self._locate(value, is_api=is_api)) if name == b"location" else (name, value)
            for name, value in headers
        ]
        shared = b"cross-origin" if path.startswith(_ASSETS) else b"same-origin"
        found += [*self._common, (b"cross-origin-resource-policy", shared)]
        if is_api and all(name != b"cache-control" for name, _ in found):
            found.append(_NO_STORE)
        return found

    def _locate(self, location: bytes, *, is_api: bool) -> bytes:
        """Return a location under the public URL; pages keep the host that they were opened by."""
        if not location.startswith(b"/") or location.startswith(b"//"):
            return location
        return (self._base if is_api else self._prefix) + location
