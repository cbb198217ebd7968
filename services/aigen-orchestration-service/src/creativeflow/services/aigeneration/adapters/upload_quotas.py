"""Upload quotas per user and job, and the logs that count stored pictures."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from creativeflow.services.aigeneration.domain.errors import (
    AigenError,
    JobUploadsError,
    UploadQuotaError,
)

_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploader:
    """The owner of uploads, with the quota within `seconds`."""

    kind: str
    name: str
    pictures_max: int
    bytes_max: int
    seconds: float

    @property
    def file_name(self) -> str:
        """Return the name of the log file; it does not contain the user id."""
        return f"{self.kind}-{hashlib.sha256(self.name.encode()).hexdigest()[:32]}"

    def refusal(self, retry_after_seconds: int) -> AigenError:
        """Return the error for an upload beyond the quota."""
        limits = {"pictures_max": self.pictures_max, "bytes_max": self.bytes_max}
        if self.kind == "job":
            return JobUploadsError(**limits)
        days = max(1, round(self.seconds / _DAY_SECONDS))
        return UploadQuotaError(days=days, retry_after_seconds=retry_after_seconds, **limits)


def user_uploader(user_id: str, *, pictures_max: int, bytes_max: int, days: int) -> Uploader:
    """Return the uploader of a user of the studio."""
    return Uploader(
        kind="user",
        name=user_id,
        pictures_max=pictures_max,
        bytes_max=bytes_max,
        seconds=days * _DAY_SECONDS,
    )


def job_uploader(job_id: str, *, pictures_max: int, bytes_max: int) -> Uploader:
    """Return the uploader of the worker of one job."""
    return Uploader(
        kind="job",
        name=job_id,
        pictures_max=pictures_max,
        bytes_max=bytes_max,
        seconds=7 * _DAY_SECONDS,
    )


class UploadLog:
    """A directory with one append-only file per uploader, shared by any number of processes.
    Blocking.
    """

    def __init__(
        self,
        directory: Path,
        *,
        stored: Callable[[str], bool],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._stored = stored
        self._now = now

    def check(self, uploader: Uploader) -> None:
        """Refuse an upload if the quota is used up.

        Raises:
            UploadQuotaError, JobUploadsError: the quota is used up.
        """
        pictures, size, oldest = self._used(uploader)
        if pictures >= uploader.pictures_max or size >= uploader.bytes_max:
            raise uploader.refusal(self._wait(uploader, oldest))

    def record(self, uploader: Uploader, name: str, size: int) -> None:
        """Count a picture that is stored under `name`; of concurrent uploads, accept those that
        fit.

        Raises:
            UploadQuotaError, JobUploadsError: it does not fit; the caller removes the picture.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path(uploader), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{self._now():.0f} {name} {size}\n".encode())
        finally:
            os.close(descriptor)
        pictures, total, oldest = self._used(uploader, until=name)
        if pictures > uploader.pictures_max or total > uploader.bytes_max:
            raise uploader.refusal(self._wait(uploader, oldest))

    def tidy(self, older_than_seconds: float) -> None:
        """Remove logs without new entries for that long."""
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                if self._now() - path.stat().st_mtime > older_than_seconds:
                    path.unlink(missing_ok=True)

    def _used(self, uploader: Uploader, until: str | None = None) -> tuple[int, int, float]:
        """Return pictures and bytes that count, up to `until` in the order of the log, and the
        oldest time.
        """
        since = self._now() - uploader.seconds
        pictures, size, oldest = 0, 0, self._now()
        try:
            lines = self._path(uploader).read_text().splitlines()
        except FileNotFoundError:
            return 0, 0, oldest
        for line in lines:
            at, name, length = line.split()
            if float(at) > since and self._stored(name):
                pictures, size, oldest = pictures + 1, size + int(length), min(oldest, float(at))
            if name == until:
                break
        return pictures, size, oldest

    def _wait(self, uploader: Uploader, oldest: float) -> int:
        return max(1, int(oldest + uploader.seconds - self._now()) + 1)

    def _path(self, uploader: Uploader) -> Path:
        return self._directory / uploader.file_name
