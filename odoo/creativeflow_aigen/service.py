"""The generation service over HTTP: one call, one answer, bounded in time and size."""

import re
import time
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

import requests

API = "/api/v1"
REQUESTS = f"{API}/generation-requests"
SECONDS = 5
"""For the connection, and again for each part of an answer: a user may be waiting behind it."""
PICTURE_BYTES_MAX = 40 * 1024 * 1024
PICTURE_SECONDS_MAX = 30
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
_CHUNK_BYTES = 65_536
_REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def is_request_id(value):
    """Whether a value has the form of the service's ids of requests: a UUID with hyphens."""
    return isinstance(value, str) and _REQUEST_ID.fullmatch(value) is not None


def path_below(root, *parts):
    """Build a path from parts, each of which stays one segment whatever it contains.

    Raises:
        ValueError: a part is empty or a dot segment, which clients remove even when it is quoted.
    """
    segments = [quote(str(part), safe="") for part in parts]
    if {"", ".", ".."} & set(segments):
        raise ValueError("a part of a path is empty or a dot segment")
    return "/".join([root, *segments])


def request_path(request_id, *parts):
    """Build the path of a request, or of a resource below it.

    Raises:
        ValueError: the id does not have the form of a request's id.
    """
    if not is_request_id(request_id):
        raise ValueError("a request id is a UUID")
    return path_below(REQUESTS, request_id, *parts)


class NotReachedError(Exception):
    """No answer that can be read: the service may have done what was asked, or not."""


class PictureRefusedError(Exception):
    """The address may not be read, or what lies there is no picture that may be kept."""


@dataclass(frozen=True)
class Answer:
    """Status and JSON body of an answer; `retry_after` in seconds where the service names it."""

    status: int
    body: dict
    retry_after: int | None = None

    @property
    def ok(self):
        """Whether the service did what was asked."""
        return 200 <= self.status < 300

    @property
    def final(self):
        """Whether the same call would be refused again: then it is not sent again."""
        if self.status == 409:
            return not self.body.get("retryable", False)
        return 400 <= self.status < 500 and self.status not in {401, 408, 425, 429}

    def sentence(self):
        """What a user reads: the words of the problem document, with every field that does not fit."""
        if not self.body.get("title"):
            return f"The generation service answered {self.status}."
        words = f"{self.body['title']}. {self.body.get('detail', '')}".strip()
        fields = [
            f"{error.get('pointer', '').lstrip('/')}: {error.get('message', '')}"
            for error in self.body.get("errors") or []
        ]
        return "\n".join([words, *fields])


@dataclass(frozen=True)
class Service:
    """Where the service is and how to prove who calls."""

    base_url: str
    api_key: str
    picture_hosts: frozenset = frozenset()

    def call(self, method, path, *, user_ref=None, key=None, body=None, language=None):
        """Make one call under the API's address, or under the root where the path is not below it.

        Raises:
            NotReachedError: no answer in time, or one that is no JSON object.
        """
        headers = {"X-Internal-API-Key": self.api_key, "Accept": "application/json"}
        headers |= {"X-User-ID": user_ref} if user_ref else {}
        headers |= {"Idempotency-Key": key} if key else {}
        headers |= {"Accept-Language": language} if language else {}
        try:
            answer = requests.request(
                method,
                f"{self.base_url.rstrip('/')}{path}",
                json=body,
                headers=headers,
                timeout=SECONDS,
                allow_redirects=False,
            )
            found = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise NotReachedError(type(error).__name__) from error
        if not isinstance(found, dict):
            raise NotReachedError("no JSON object")
        after = answer.headers.get("Retry-After", "")
        return Answer(answer.status_code, found, int(after) if after.isdigit() else None)

    def picture(self, url):
        """The bytes of a picture, from the service's own host or one that the settings name.

        Raises:
            PictureRefusedError: another host, too large, too slow, or no PNG, JPEG or WebP.
            NotReachedError: it could not be read now.
        """
        url = urljoin(self.base_url, url)
        address = urlsplit(url)
        allowed = self.picture_hosts | {urlsplit(self.base_url).hostname}
        if address.scheme not in {"http", "https"} or address.hostname not in allowed:
            raise PictureRefusedError(f"pictures are not read from {address.hostname}")
        ends = time.monotonic() + PICTURE_SECONDS_MAX
        try:
            with requests.get(url, stream=True, timeout=SECONDS, allow_redirects=False) as answer:
                if answer.status_code != 200:
                    raise NotReachedError(f"the picture's address answers {answer.status_code}")
                read = bytearray()
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    read += chunk
                    if len(read) > PICTURE_BYTES_MAX or time.monotonic() > ends:
                        raise PictureRefusedError("the picture is too large or comes too slowly")
        except requests.RequestException as error:
            raise NotReachedError(type(error).__name__) from error
        if not bytes(read).startswith(_MAGIC):
            raise PictureRefusedError("what lies at the picture's address is no picture")
        return bytes(read)
