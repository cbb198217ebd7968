"""Runs of one event are shown as one entry with a count."""

from typing import Any

from creativeflow.services.aigeneration.domain.timeline import merge_repeats


def entries(*events: str) -> list[dict[str, Any]]:
    return [{"seq": seq, "event": event, "data": {"seq": seq}} for seq, event in enumerate(events)]


def merge(*events: str) -> list[tuple[str, int, int]]:
    return [
        (entry["event"], entry["data"]["seq"], entry["data"].get("count", 1))
        for entry in merge_repeats(entries(*events))
    ]


def test_merge_repeats_of_different_events_changes_nothing() -> None:
    found = merge("submitted", "job_leased", "samples_job_confirmed", "samples_started")
    assert [count for _, _, count in found] == [1, 1, 1, 1]


def test_merge_repeats_of_progress_keeps_the_last_with_a_count() -> None:
    found = merge("samples_started", "progress_reported", "progress_reported", "progress_reported")
    assert found == [("samples_started", 0, 1), ("progress_reported", 3, 3)]


def test_merge_repeats_of_returned_jobs_keeps_the_last_return_with_a_count() -> None:
    found = merge("submitted", *("job_leased", "job_returned") * 300, "job_leased")
    assert found == [
        ("submitted", 0, 1),
        ("job_leased", 1, 1),
        ("job_returned", 600, 300),
        ("job_leased", 601, 1),
    ]


def test_merge_repeats_of_interrupted_runs_counts_each_run() -> None:
    found = merge("stale_result", "stale_result", "samples_started", "stale_result")
    assert [(event, count) for event, _, count in found] == [
        ("stale_result", 2),
        ("samples_started", 1),
        ("stale_result", 1),
    ]
