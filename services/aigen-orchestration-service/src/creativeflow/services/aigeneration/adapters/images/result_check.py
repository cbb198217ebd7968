"""Check the pictures that workers report: read those stored here, fetch and decode the others."""

import asyncio
import base64
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.adapters.asset_files import AssetStore
from creativeflow.services.aigeneration.adapters.http.safe_client import (
    DiskError,
    Download,
    SafeHttp,
)
from creativeflow.services.aigeneration.adapters.images.inspection import (
    PictureDecoder,
    PictureFacts,
    PictureRefusedError,
)
from creativeflow.services.aigeneration.domain.request import Asset
from creativeflow.services.aigeneration.domain.result_checks import (
    INVALID_OUTPUT,
    NETWORK_ERROR,
    STORAGE_ERROR,
    PictureFault,
)
from creativeflow.services.aigeneration.domain.webhooks import DeliveryError

log = structlog.get_logger(__name__)

_PAUSES = (0.5, 1.5)
"""Seconds before the second and third attempt at a URL."""
_FETCHES = 16
_REMEMBERED_MAX = 1_000
_PASSING = frozenset(
    {
        DeliveryError.TIMEOUT,
        DeliveryError.UNREACHABLE,
        DeliveryError.UNKNOWN_HOST,
        DeliveryError.TLS_FAILED,
        DeliveryError.BAD_ANSWER,
    }
)
_PASSING_STATUSES = frozenset({408, 425, 429})
_SHA256 = re.compile(r"sha-?256[:=-](?P<named>.+)|(?P<plain>[0-9a-fA-F]{64})", re.IGNORECASE)

Looked = PictureFacts | PictureFault


class ResultCheck:
    """Checks reported pictures; concurrent and repeated reports of a job check each URL once."""

    def __init__(
        self,
        assets: AssetStore,
        decoder: PictureDecoder,
        http: SafeHttp,
        *,
        fetches: bool,
        bytes_max: int,
        timeout_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Build the check.

        `fetches`: also check pictures that are not stored here; `timeout_seconds` bounds all
        attempts at one picture.
        """
        self._assets = assets
        self._decoder = decoder
        self._http = http
        self._fetches = fetches
        self._bytes_max = bytes_max
        self._timeout_seconds = timeout_seconds
        self._sleep = sleep
        self._room = asyncio.Semaphore(_FETCHES)
        self._looks: OrderedDict[tuple[UUID, str], asyncio.Task[Looked]] = OrderedDict()

    def covers(self, asset: Asset) -> bool:
        """Return whether this picture is checked."""
        return self._fetches or self._assets.own_name(asset["url"]) is not None

    async def look(self, job_id: UUID, asset: Asset) -> Asset | PictureFault:
        """Return the asset with its real facts instead of the claimed ones, or the reason why it is
        invalid.
        """
        if not self.covers(asset):
            return asset
        found = await asyncio.shield(self._looking(job_id, asset["url"]))
        if isinstance(found, PictureFacts) and not checksum_fits(asset.get("checksum"), found):
            found = PictureFault(INVALID_OUTPUT, "checksum_mismatch")
        if isinstance(found, PictureFault):
            log.warning(
                "result_picture_refused",
                job_id=str(job_id),
                error_code=found.error_code,
                reason=found.reason,
            )
            return found
        facts: Mapping[str, Any] = {
            "resolution": found.resolution,
            "format": found.format,
            "checksum": found.checksum,
        }
        return Asset(**{**asset, **facts})  # type: ignore[typeddict-item]

    async def close(self) -> None:
        """Cancel running checks."""
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    def _looking(self, job_id: UUID, url: str) -> "asyncio.Task[Looked]":
        """Return the check of a URL for a job, shared by concurrent reports; a failed one is
        repeated on the next report.
        """
        key = (job_id, url)
        known = self._looks.get(key)
        if known is None or (known.done() and not _found(known)):
            known = self._looks[key] = asyncio.create_task(self._look(url))
            self._looks.move_to_end(key)
            while len(self._looks) > _REMEMBERED_MAX and next(iter(self._looks.values())).done():
                self._looks.popitem(last=False)
        return known

    async def _look(self, url: str) -> Looked:
        try:
            name = self._assets.own_name(url)
            if name is not None and self._assets.path(name) is not None:
                return await self._assets.facts(name)
            async with self._room:
                return await self._fetch(url, own=name is not None)
        except PictureRefusedError as error:
            return PictureFault(INVALID_OUTPUT, error.reason)
        except (DiskError, OSError) as error:
            log.exception("result_picture_unreadable", reason=type(error).__name__)
            return PictureFault(STORAGE_ERROR, "disk")

    async def _fetch(self, url: str, *, own: bool) -> Looked:
        """Download and decode; retry temporary errors within the timeout."""
        async with self._assets.scratch() as target:
            fault = PictureFault(NETWORK_ERROR, DeliveryError.TIMEOUT)
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    for pause in (*_PAUSES, None):
                        got = await self._http.download(
                            url, target, bytes_max=self._bytes_max, own=own
                        )
                        found = _fault(got)
                        if found is None:
                            break
                        fault = found
                        if fault.error_code != NETWORK_ERROR or pause is None:
                            return fault
                        await self._sleep(pause)
            except TimeoutError:
                return fault
            return await self._decoder.inspect(target)


def _found(look: "asyncio.Task[Looked]") -> bool:
    return (
        not look.cancelled()
        and look.exception() is None
        and isinstance(look.result(), PictureFacts)
    )


def _fault(got: Download) -> PictureFault | None:
    if got.too_large:
        return PictureFault(INVALID_OUTPUT, "too_large")
    if got.trouble is None:
        return None
    if got.status is not None:
        passing = got.status >= 500 or got.status in _PASSING_STATUSES  # noqa: PLR2004 - server errors
        return PictureFault(NETWORK_ERROR if passing else INVALID_OUTPUT, f"http_{got.status}")
    return PictureFault(NETWORK_ERROR if got.trouble in _PASSING else INVALID_OUTPUT, got.trouble)


def checksum_fits(claimed: str | None, facts: PictureFacts) -> bool:
    """Return whether a claimed SHA-256, in hexadecimal or base64, matches; other kinds are not
    compared.
    """
    match = _SHA256.fullmatch(claimed.strip()) if claimed else None
    if match is None:
        return True
    text = (match["named"] or match["plain"]).strip()
    if text.lower() == facts.sha256:
        return True
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).hex() == facts.sha256
    except ValueError:
        return False
