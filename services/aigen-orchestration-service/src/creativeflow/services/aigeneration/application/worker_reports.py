"""Worker reports: one entry point for HTTP callbacks, RabbitMQ messages and the local engine.

A report is parsed, its token or signature verified, its pictures checked, and then its event
applied. Pictures are checked before the change, so that no transaction waits for them.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Protocol, cast
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from creativeflow.services.aigeneration.application.jobs import JobService
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.request import (
    Asset,
    GenerationRequest,
    SampleFailure,
)
from creativeflow.services.aigeneration.domain.result_checks import (
    INVALID_OUTPUT,
    PictureFault,
    distinct_samples,
    final_fits,
    sample_fits,
)
from creativeflow.services.aigeneration.kit.clock import uuid7_time
from creativeflow.services.aigeneration.kit.json_input import (
    METADATA_MAX_BYTES,
    parse_json,
    plain_texts,
    to_invalid_request,
)
from creativeflow.services.aigeneration.kit.legacy_field_names import current_result
from creativeflow.services.aigeneration.kit.signing import CallbackSecrets

Short = Annotated[str, Field(min_length=1, max_length=200)]
Url = Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^(https?|s3)://[^\s]+$")]


class ReportKind(StrEnum):
    """The kinds of reports; the value is the last segment of the callback URL."""

    STARTED = "started"
    PROGRESS = "progress"
    SAMPLES = "sample-result"
    FINAL = "final-result"
    ERROR = "error"


class WorkerReport(BaseModel):
    """The fields of every report; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        return plain_texts(value)

    generation_request_id: UUID
    job_id: UUID | None = None
    callback_token: Annotated[str, Field(max_length=200)] | None = None


def _small_metadata(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leave out what is too large to be kept with each state; the picture counts without it."""
    too_large = metadata and len(orjson.dumps(metadata)) > METADATA_MAX_BYTES
    return None if too_large else metadata


class ReportedAsset(BaseModel):
    """A picture made by a worker."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    asset_id: Short
    url: Url
    resolution: Annotated[
        str, Field(max_length=20, pattern=r"^\d{1,5}[xX]\d{1,5}$", examples=["512x512"])
    ]
    format: Annotated[str, Field(max_length=10, examples=["png"])]
    index: Annotated[int, Field(ge=0, le=99)] | None = None
    model: Short | None = None
    checksum: Short | None = None
    metadata: Annotated[dict[str, Any] | None, AfterValidator(_small_metadata)] = None

    def asset(self) -> Asset:
        """Convert to an asset, without unset fields."""
        return cast("Asset", self.model_dump(exclude_none=True))


class ReportedFailure(BaseModel):
    """A sample that could not be made."""

    model_config = ConfigDict(extra="ignore")

    index: Annotated[int, Field(ge=0, le=99)]
    error_code: Short = "provider_error"
    error_message: Annotated[str, Field(max_length=4000)] | None = None


class ProgressReport(WorkerReport):
    """The progress of a job, optionally with finished samples."""

    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    step: Annotated[str, Field(max_length=100)] | None = None
    samples: Annotated[list[ReportedAsset], Field(max_length=8)] = []


class SamplesReport(WorkerReport):
    """The finished samples, and the failed ones."""

    samples: Annotated[list[ReportedAsset], Field(max_length=8)]
    failures: Annotated[list[ReportedFailure], Field(max_length=8)] = []
    ai_model_used: Short | None = None
    provider: Short | None = None
    processing_time_ms: Annotated[int, Field(ge=0, le=86_400_000)] | None = None


class FinalReport(WorkerReport):
    """The final picture."""

    final_asset: ReportedAsset
    ai_model_used: Short | None = None
    provider: Short | None = None
    processing_time_ms: Annotated[int, Field(ge=0, le=86_400_000)] | None = None


class ErrorReport(WorkerReport):
    """An error; docs/lifecycle.md lists the codes."""

    error_code: Short
    error_message: Annotated[str, Field(max_length=4000)] | None = None
    error_details: Any = None
    failed_stage: Annotated[str, Field(max_length=100)] | None = None
    is_system_error: bool | None = None


MODELS: Mapping[ReportKind, type[WorkerReport]] = {
    ReportKind.STARTED: WorkerReport,
    ReportKind.PROGRESS: ProgressReport,
    ReportKind.SAMPLES: SamplesReport,
    ReportKind.FINAL: FinalReport,
    ReportKind.ERROR: ErrorReport,
}


class Signature(BaseModel):
    """The three headers of a Standard Webhooks signature."""

    message_id: str
    timestamp: str
    signatures: str


class PictureCheck(Protocol):
    """Determines what a reported picture really is."""

    def covers(self, asset: Asset) -> bool:
        """Return whether this picture is checked."""
        ...

    async def look(self, job_id: UUID, asset: Asset) -> Asset | PictureFault:
        """Return the asset with the values found, or why it is invalid; bounded in time."""
        ...


class WorkerReports:
    """Receives reports: parses and verifies them, and applies their events."""

    def __init__(
        self,
        jobs: JobService,
        secrets: CallbackSecrets,
        *,
        now: Callable[[], datetime],
        allow_missing_job_id: bool = False,
        older_names: bool = False,
        check: PictureCheck | None = None,
        uploads_for: timedelta | None = None,
    ) -> None:
        """`uploads_for`: time after the creation of a job during which its worker may upload
        pictures.
        """
        self._check = check
        self._uploads_for = uploads_for
        self._jobs = jobs
        self._secrets = secrets
        self._now = now
        self._allow_missing_job_id = allow_missing_job_id
        self._older_names = older_names

    async def receive(
        self,
        kind: ReportKind,
        body: bytes,
        *,
        token: str | None = None,
        signature: Signature | None = None,
    ) -> GenerationRequest:
        """Receive a report; repeating it changes nothing.

        The job's token may come beside the body or in it as `callback_token`.

        Raises:
            InvalidCredentialsError: neither the job's token nor a valid signature.
            InvalidRequestError, InvalidJsonError: the report is invalid.
            NotFoundError: the request does not exist.
            StaleResultError: the job is not the current one.
        """
        signed = signature is not None and self._secrets.signed(
            signature.message_id,
            signature.timestamp,
            signature.signatures,
            body,
            now=self._now().timestamp(),
        )
        if not signed and signature is not None and token is None:
            raise errors.InvalidCredentialsError
        report = read(kind, body, older_names=self._older_names)
        job_id = report.job_id or await self._current_job(report, signed=signed)
        if not signed and not self._secrets.opens(token or report.callback_token or "", job_id):
            raise errors.InvalidCredentialsError
        return await self.apply(report, job_id)

    async def check_upload(self, job_id: UUID, token: str | None) -> None:
        """Check that the token is the job's and that the job is in progress.

        Raises:
            InvalidCredentialsError: the token is not this job's.
            StaleResultError: the job is finished, replaced or cancelled.
        """
        if not self._secrets.opens(token or "", job_id):
            raise errors.InvalidCredentialsError
        if self._uploads_for is not None and uuid7_time(job_id) + self._uploads_for < self._now():
            raise errors.StaleResultError
        if not await self._jobs.is_in_flight(job_id):
            raise errors.StaleResultError

    async def apply(self, report: WorkerReport, job_id: UUID) -> GenerationRequest:
        """Apply a report whose sender has been verified."""
        request_id, jobs = report.generation_request_id, self._jobs
        match report:
            case ProgressReport():
                return await self._progress(report, job_id)
            case SamplesReport():
                return await self._samples(report, job_id)
            case FinalReport():
                return await self._final(report, job_id)
            case ErrorReport():
                details = report.model_dump(
                    include={"failed_stage", "is_system_error"}, exclude_none=True
                )
                return await jobs.attempt_failed(request_id, job_id, report.error_code, details)
            case _:
                return await jobs.work_started(request_id, job_id)

    async def _progress(self, report: ProgressReport, job_id: UUID) -> GenerationRequest:
        """Apply progress without invalid pictures; the result reports those."""
        samples, _, _ = await self._looked_at(report.generation_request_id, job_id, report.samples)
        progress = report.model_dump(include={"percent", "step"}, exclude_none=True)
        return await self._jobs.progress_reported(
            report.generation_request_id, job_id, progress, samples
        )

    async def _samples(self, report: SamplesReport, job_id: UUID) -> GenerationRequest:
        samples, found, data = await self._looked_at(
            report.generation_request_id, job_id, report.samples
        )
        reported = [
            SampleFailure(index=failed.index, error_code=failed.error_code, message="")
            for failed in report.failures
        ]
        return await self._jobs.samples_delivered(
            report.generation_request_id,
            job_id,
            samples,
            [*reported, *found],
            ai_model_used=report.ai_model_used,
            data=_work(report) | data,
        )

    async def _final(self, report: FinalReport, job_id: UUID) -> GenerationRequest:
        request_id, asset = report.generation_request_id, report.final_asset.asset()
        if self._check is not None and self._check.covers(asset):
            request = await self._jobs.awaiting_result(request_id, job_id, Stage.FINAL)
            if request is not None and final_fits(request, asset):
                found = await self._check.look(job_id, asset)
                if isinstance(found, PictureFault):
                    evidence = _work(report) | {"checks": [{"reason": found.reason}]}
                    return await self._jobs.attempt_failed(
                        request_id, job_id, found.error_code, evidence
                    )
                asset = found
        return await self._jobs.final_delivered(
            request_id, job_id, asset, ai_model_used=report.ai_model_used, data=_work(report)
        )

    async def _looked_at(
        self, request_id: UUID, job_id: UUID, reported: Sequence[ReportedAsset]
    ) -> tuple[list[Asset], list[SampleFailure], dict[str, Any]]:
        """Return the checked samples, those that are invalid or repeated, and the evidence.

        An unexpected report is refused before anything is fetched, and so is a sample whose
        reported size does not fit.
        """
        check = self._check
        samples = [Asset(**{"index": at, **each.asset()}) for at, each in enumerate(reported)]
        if check is None or not any(check.covers(sample) for sample in samples):
            return samples, [], {}
        request = await self._jobs.awaiting_result(request_id, job_id, Stage.SAMPLES)
        if request is None:
            return samples, [], {}

        async def look(sample: Asset) -> Asset | PictureFault:
            return await check.look(job_id, sample) if sample_fits(request, sample) else sample

        found = await asyncio.gather(*(look(sample) for sample in samples))
        good, again = distinct_samples(
            [each for each in found if not isinstance(each, PictureFault)]
        )
        bad = {
            sample["index"]: each
            for sample, each in zip(samples, found, strict=True)
            if isinstance(each, PictureFault)
        }
        bad |= {sample["index"]: PictureFault(INVALID_OUTPUT, "repeated") for sample in again}
        failures = [
            SampleFailure(index=index, error_code=fault.error_code, message="")
            for index, fault in bad.items()
        ]
        checks = [{"index": index, "reason": fault.reason} for index, fault in sorted(bad.items())]
        return good, failures, {"checks": checks} if checks else {}

    async def _current_job(self, report: WorkerReport, *, signed: bool) -> UUID:
        """Return the current job for a worker that does not send its id; requires a setting and a
        signature.
        """
        if not self._allow_missing_job_id:
            raise errors.InvalidRequestError.at(
                "/job_id", "missing", "Send the `job_id` of the job message back."
            )
        if not signed:
            raise errors.InvalidCredentialsError
        return await self._jobs.current_job(report.generation_request_id)


def read(kind: ReportKind, body: bytes, *, older_names: bool = False) -> WorkerReport:
    """Parse a report; with older field names if the setting allows them.

    Raises:
        InvalidJsonError, InvalidRequestError: with the place of each error.
    """
    value = parse_json(body)
    if older_names:
        found, value = current_result(kind, value)
        kind = ReportKind(found)
    try:
        return MODELS[kind].model_validate(value)
    except ValidationError as error:
        raise to_invalid_request(error) from None


def _work(report: SamplesReport | FinalReport) -> dict[str, Any]:
    return report.model_dump(include={"provider", "processing_time_ms"}, exclude_none=True)
