"""Checks of delivered results: sizes, ratios, formats and repetitions (REQ-008, REQ-009)."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from creativeflow.services.aigeneration.domain.formats import Size, sample_size
from creativeflow.services.aigeneration.domain.request import (
    Asset,
    GenerationRequest,
    SampleFailure,
)
from creativeflow.services.aigeneration.domain.result_checks import (
    distinct_samples,
    failed_sample,
    final_fits,
    judge_samples,
    sample_fits,
)
from creativeflow.services.aigeneration.domain.worker_errors import reported_code
from tests.support.builders import a_brief, a_final, a_request, a_sample, four_samples

INVALID = "The AI model did not deliver usable pictures. Try again or change the prompt."
OURS = "Something went wrong on our side. Try again."

SQUARE = a_request()
STORY = a_request(brief=a_brief(output_format="TikTok_9x16"))


def custom(width: int, height: int) -> GenerationRequest:
    return a_request(
        brief=a_brief(output_format="Custom", custom_dimensions={"width": width, "height": height})
    )


def numbered(*ids: str, **changes: Any) -> list[Asset]:
    """Return samples without an index."""
    return [a_sample(asset_id=asset_id, **changes) for asset_id in ids]


def told(index: int, code: str, message: str = "technical words") -> SampleFailure:
    return SampleFailure(index=index, error_code=code, message=message)


def test_four_good_samples_are_kept_as_they_came() -> None:
    judged = judge_samples(SQUARE, four_samples(), [])
    assert (judged.good, judged.failures) == (four_samples(), ())


def test_samples_without_an_index_are_numbered_in_their_order() -> None:
    judged = judge_samples(SQUARE, numbered("a", "b", "c"), [])
    assert [(sample["asset_id"], sample["index"]) for sample in judged.good] == [
        ("a", 0),
        ("b", 1),
        ("c", 2),
    ]


def test_samples_are_shown_by_their_index() -> None:
    judged = judge_samples(SQUARE, list(reversed(four_samples())), [])
    assert [sample["index"] for sample in judged.good] == [0, 1, 2, 3]


def test_judge_samples_keeps_further_fields() -> None:
    told_more = a_sample(index=2, model="m-1", checksum="sha256:00", metadata={"seed": 5})
    assert judge_samples(SQUARE, [told_more], []).good == (told_more,)


def test_judge_samples_does_not_change_its_input() -> None:
    delivered = numbered("a", "b")
    judge_samples(SQUARE, delivered, [])
    assert delivered == numbered("a", "b")


def test_judge_samples_with_failures_keeps_valid_ones() -> None:
    judged = judge_samples(SQUARE, four_samples()[:3], [told(3, "unsafe_output")])
    assert judged.good == four_samples()[:3]
    assert judged.failures == (
        told(
            3,
            "unsafe_output",
            "The pictures did not pass our safety check. Try again or change the prompt.",
        ),
    )


def test_judge_samples_invalid_sample_fails_under_its_index() -> None:
    first, second, *_ = four_samples()
    judged = judge_samples(SQUARE, [first, a_sample(**second | {"resolution": "1024x1024"})], [])
    assert judged.good == (first,)
    assert judged.failures == (told(1, "invalid_output", INVALID),)


def test_judge_samples_invalid_sample_without_index_fails_under_its_position() -> None:
    judged = judge_samples(SQUARE, [*numbered("a"), *numbered("b", resolution="nonsense")], [])
    assert [failure["index"] for failure in judged.failures] == [1]


def test_judge_samples_failures_are_ordered_by_index() -> None:
    judged = judge_samples(SQUARE, numbered("a", resolution="0x0"), [told(1, "model_timeout")])
    assert [failure["error_code"] for failure in judged.failures] == [
        "invalid_output",
        "model_timeout",
    ]


def test_judge_samples_without_valid_samples_returns_failures_only() -> None:
    judged = judge_samples(SQUARE, numbered("a", "b", resolution="4096x4096"), [])
    assert judged.good == ()
    assert len(judged.failures) == 2


def test_judge_samples_empty_returns_nothing() -> None:
    judged = judge_samples(SQUARE, [], [])
    assert (judged.good, judged.failures) == ((), ())


def test_judge_samples_repeated_sample_counts_once() -> None:
    first, second, *_ = four_samples()
    judged = judge_samples(SQUARE, [first, second, first, a_sample(**second | {"index": 3})], [])
    assert (judged.good, judged.failures) == ((first, second), ())


def test_judge_samples_repeated_invalid_sample_fails_once() -> None:
    judged = judge_samples(SQUARE, numbered("a", "a", resolution="9x9999"), [])
    assert [failure["index"] for failure in judged.failures] == [0]


@pytest.mark.parametrize("resolution", ["512x512", "512X512", "256x256", "512x504", "504x512"])
def test_sample_fits_inside_the_box_in_the_ratio(resolution: str) -> None:
    assert sample_fits(SQUARE, a_sample(resolution=resolution)) is True


@pytest.mark.parametrize(
    "resolution", ["513x513", "512x513", "1024x1024", "1080x1080", "99999x99999"]
)
def test_sample_fits_outside_the_box_is_false(resolution: str) -> None:
    assert sample_fits(SQUARE, a_sample(resolution=resolution)) is False


@pytest.mark.parametrize("resolution", ["512x288", "288x512", "512x480", "512x64"])
def test_sample_fits_in_another_ratio_is_false(resolution: str) -> None:
    assert sample_fits(SQUARE, a_sample(resolution=resolution)) is False


@pytest.mark.parametrize(
    "resolution",
    [
        "",
        "512",
        "512x",
        "x512",
        "512*512",
        "big",
        "0x0",
        "-512x-512",
        "5e2x5e2",
        "\uff15\uff11\uff12x\uff15\uff11\uff12",
        "null",
    ],
)
def test_sample_fits_without_readable_size_is_false(resolution: str) -> None:
    assert sample_fits(SQUARE, a_sample(resolution=resolution)) is False


def test_sample_fits_tolerates_steps_of_eight_pixels() -> None:
    assert sample_fits(custom(1200, 630), a_sample(resolution="512x272")) is True
    assert sample_fits(custom(1200, 630), a_sample(resolution="512x264")) is True


@given(st.integers(min_value=64, max_value=4096), st.integers(min_value=64, max_value=4096))
@example(68, 4096)
@example(4096, 68)
@settings(max_examples=200, deadline=None)
def test_sample_fits_in_the_size_of_the_job_is_true(width: int, height: int) -> None:
    asked = sample_size(Size(width, height))
    assert sample_fits(custom(width, height), a_sample(resolution=str(asked)))


@pytest.mark.parametrize(
    ("resolution", "file_format", "fits"),
    [
        ("1080x1920", "png", True),
        ("1080X1920", "PNG", True),
        ("1920x1080", "png", False),
        ("1080x1919", "png", False),
        ("1079x1920", "png", False),
        ("2160x3840", "png", False),
        ("", "png", False),
        ("1080", "png", False),
        ("1080x1920", "jpg", False),
        ("1080x1920", "", False),
    ],
)
def test_final_fits_only_exact_size_and_format(
    resolution: str, file_format: str, fits: bool
) -> None:
    request = a_request(final_size=Size(1080, 1920), file_format="png")
    assert final_fits(request, a_final(resolution=resolution, format=file_format)) is fits


@pytest.mark.parametrize(
    ("asked", "delivered", "fits"),
    [
        ("jpg", "jpg", True),
        ("jpg", "jpeg", True),
        ("jpg", "JPEG", True),
        ("png", "jpeg", False),
        ("webp", "webp", True),
        ("webp", "png", False),
        ("png", "pngx", False),
    ],
)
def test_jpeg_is_jpg_and_nothing_else_is_another(asked: str, delivered: str, fits: bool) -> None:
    request = a_request(final_size=Size(1080, 1080), file_format=asked)
    assert final_fits(request, a_final(format=delivered)) is fits


def test_final_fits_without_an_order_is_false() -> None:
    assert final_fits(a_request(final_size=None), a_final()) is False


def test_judge_samples_uses_the_ratio_of_the_format() -> None:
    assert [
        sample["asset_id"]
        for sample in judge_samples(STORY, numbered("a", resolution="288x512"), []).good
    ] == ["a"]
    assert judge_samples(STORY, numbered("a", resolution="512x512"), []).good == ()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("invalid_output", INVALID),
        ("storage_error", "The pictures could not be stored. Try again."),
        ("CUDA_OUT_OF_MEMORY", OURS),  # shown as our own workflow_error
    ],
)
def test_failed_sample_has_the_message_of_the_code(code: str, message: str) -> None:
    assert failed_sample(2, code) == told(2, reported_code(code), message)


@pytest.mark.parametrize("code", ["insufficient_credits", "operator_ended", "dispatch_timeout"])
def test_failed_sample_service_code_becomes_workflow_error(code: str) -> None:
    (failure,) = judge_samples(SQUARE, four_samples()[:3], [told(3, code)]).failures
    assert failure["message"] == OURS


def test_judge_samples_fewer_than_ordered_reports_the_missing_ones() -> None:
    first, second, *_ = four_samples()
    judged = judge_samples(SQUARE, [first, second], [], ordered=4)
    assert judged.failures == (
        told(2, "invalid_output", INVALID),
        told(3, "invalid_output", INVALID),
    )


def test_judge_samples_with_reported_failures_reports_only_what_nobody_speaks_of() -> None:
    first, *_ = four_samples()
    judged = judge_samples(SQUARE, [first], [told(2, "model_timeout")], ordered=4)
    assert [(failure["index"], failure["error_code"]) for failure in judged.failures] == [
        (1, "invalid_output"),
        (2, "model_timeout"),
        (3, "invalid_output"),
    ]


def test_judge_samples_numbered_beyond_the_order_is_whole_when_four_are_good() -> None:
    judged = judge_samples(
        SQUARE, [a_sample(asset_id=str(n), index=n) for n in (1, 2, 3, 4)], [], ordered=4
    )
    assert (len(judged.good), judged.failures) == (4, ())


def test_judge_samples_nothing_at_all_reports_every_ordered_sample() -> None:
    assert [failure["index"] for failure in judge_samples(SQUARE, [], [], ordered=4).failures] == [
        0,
        1,
        2,
        3,
    ]


def test_distinct_samples_with_equal_checksums_keeps_the_first() -> None:
    samples = [
        a_sample(asset_id=one, checksum=checksum)
        for one, checksum in (("a", "x"), ("b", "y"), ("c", "x"))
    ]
    assert distinct_samples(samples) == (samples[:2], samples[2:])


def test_distinct_samples_without_checksums_keeps_all() -> None:
    assert distinct_samples(numbered("a", "b")) == (numbered("a", "b"), [])
