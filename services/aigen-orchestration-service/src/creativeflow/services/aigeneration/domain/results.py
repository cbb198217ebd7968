"""Whether what a worker delivered fits what was asked: sizes, ratios and file formats (REQ-008, REQ-009)."""

from collections.abc import Sequence
from dataclasses import dataclass

from creativeflow.services.aigeneration.domain.faults import fault_of
from creativeflow.services.aigeneration.domain.formats import SAMPLE_BOX, Size
from creativeflow.services.aigeneration.domain.request import Asset, Request, SampleFailure

INVALID_OUTPUT = "invalid_output"
_SAME_FORMAT = {"jpeg": "jpg"}


@dataclass(frozen=True, slots=True)
class JudgedSamples:
    """The good samples, numbered, and the reason for each that is missing."""

    good: tuple[Asset, ...]
    failures: tuple[SampleFailure, ...]


def judge_samples(request: Request, samples: Sequence[Asset], failures: Sequence[SampleFailure]) -> JudgedSamples:
    """Keep the samples that fit the 512 x 512 box and the asked ratio; report every other one as failed.

    A second sample with an id already seen is a repetition and is dropped.
    """
    good: list[Asset] = []
    bad = [failed_sample(failure["index"], failure["error_code"]) for failure in failures]
    seen: set[str] = set()
    for position, sample in enumerate(samples):
        numbered = Asset(**{**sample, "index": sample.get("index", position)})
        if sample["asset_id"] in seen:
            continue
        seen.add(sample["asset_id"])
        if sample_fits(request, sample):
            good.append(numbered)
        else:
            bad.append(failed_sample(numbered["index"], INVALID_OUTPUT))
    return JudgedSamples(tuple(sorted(good, key=lambda sample: sample["index"])), tuple(bad))


def sample_fits(request: Request, sample: Asset) -> bool:
    """Inside the box, in the asked ratio; providers round sides to their own steps, so a small error is allowed."""
    try:
        size = Size.parse(sample["resolution"])
    except ValueError:
        return False
    return size.longest <= SAMPLE_BOX and size.like(request.dimensions)


def final_fits(request: Request, asset: Asset) -> bool:
    """Exactly the asked size, in the asked file format."""
    try:
        size = Size.parse(asset["resolution"])
    except ValueError:
        return False
    file_format = asset["format"].lower()
    return size == request.final_size and _SAME_FORMAT.get(file_format, file_format) == request.file_format


def failed_sample(index: int, code: str) -> SampleFailure:
    """One missing sample in words for the user; what the provider said stays out of it."""
    return SampleFailure(index=index, error_code=code, message=fault_of(code).message)
