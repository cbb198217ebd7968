"""Checks of delivered results against the order: sizes, ratios and file formats (REQ-008,
REQ-009).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from creativeflow.services.aigeneration.domain.formats import SAMPLE_BOX, Size, sample_size
from creativeflow.services.aigeneration.domain.request import (
    Asset,
    GenerationRequest,
    SampleFailure,
)
from creativeflow.services.aigeneration.domain.worker_errors import reported_code, worker_error_for

INVALID_OUTPUT = "invalid_output"
NETWORK_ERROR = "network_error"
STORAGE_ERROR = "storage_error"
SAMPLES_MAX = 4
_SAME_FORMAT = {"jpeg": "jpg"}


@dataclass(frozen=True, slots=True)
class JudgedSamples:
    """The valid samples, numbered, and a failure for each missing one."""

    good: tuple[Asset, ...]
    failures: tuple[SampleFailure, ...]


@dataclass(frozen=True, slots=True)
class PictureFault:
    """Why a reported picture is invalid: an error code of `domain/worker_errors.py`, and the reason
    for operators.
    """

    error_code: str
    reason: str


def judge_samples(
    request: GenerationRequest,
    samples: Sequence[Asset],
    failures: Sequence[SampleFailure],
    *,
    ordered: int = 0,
) -> JudgedSamples:
    """Keep the samples that fit the 512 x 512 box and the ordered ratio, and report all others as
    failed.

    A second valid sample with the same id or index is dropped as a repetition. Of the `ordered`
    samples, those that are neither delivered nor reported count as failed too (REQ-008).
    """
    good: dict[int, Asset] = {}
    bad = {failure["index"]: failure["error_code"] for failure in failures}
    seen: set[str] = set()
    misfits: set[str] = set()
    for position, sample in enumerate(samples):
        index = sample.get("index", position)
        if sample["asset_id"] in seen or index in good:
            continue
        if sample_fits(request, sample):
            seen.add(sample["asset_id"])
            good[index] = Asset(**{**sample, "index": index})
        elif sample["asset_id"] not in misfits:
            misfits.add(sample["asset_id"])
            bad[index] = INVALID_OUTPUT
    shown = sorted(good)[:SAMPLES_MAX]
    spoken_of = {*good, *bad}
    silent = [index for index in range(ordered) if index not in spoken_of]
    bad |= dict.fromkeys(silent[: max(0, ordered - len(spoken_of))], INVALID_OUTPUT)
    return JudgedSamples(
        tuple(good[index] for index in shown),
        tuple(failed_sample(index, bad[index]) for index in sorted(bad) if index not in good),
    )


def distinct_samples(samples: Sequence[Asset]) -> tuple[list[Asset], list[Asset]]:
    """Split samples into distinct ones and repetitions by checksum; without a checksum a sample
    counts as distinct.
    """
    first: list[Asset] = []
    again: list[Asset] = []
    seen: set[str] = set()
    for sample in samples:
        checksum = sample.get("checksum")
        (again if checksum is not None and checksum in seen else first).append(sample)
        if checksum is not None:
            seen.add(checksum)
    return first, again


def sample_fits(request: GenerationRequest, sample: Asset) -> bool:
    """Return whether a sample fits the box and the ratio and is no thumbnail; small rounding errors
    are allowed.
    """
    try:
        size = Size.parse(sample["resolution"])
    except ValueError:
        return False
    smallest = sample_size(request.dimensions).longest // 4
    return smallest <= size.longest <= SAMPLE_BOX and size.like(request.dimensions)


def final_fits(request: GenerationRequest, asset: Asset) -> bool:
    """Return whether the final has exactly the ordered size and file format."""
    try:
        size = Size.parse(asset["resolution"])
    except ValueError:
        return False
    file_format = asset["format"].lower()
    return (
        size == request.final_size
        and _SAME_FORMAT.get(file_format, file_format) == request.file_format
    )


def failed_sample(index: int, code: str) -> SampleFailure:
    """Return the failure of a sample with a message for the user, without the provider's
    message.
    """
    known = reported_code(code)
    return SampleFailure(index=index, error_code=known, message=worker_error_for(known).message)
