"""The states of a generation in words, for a terminal."""

SAMPLES_READY = "AWAITING_SELECTION"
COMPLETED = "COMPLETED"
STATUS_TEXTS = {
    "VALIDATING_CREDITS": "checking credits",
    "PENDING": "queued",
    "PUBLISHING_TO_QUEUE": "being handed to a worker",
    "PROCESSING_SAMPLES": "drawing samples",
    SAMPLES_READY: "samples are ready",
    "PROCESSING_FINAL": "drawing the final",
    COMPLETED: "done",
    "FAILED": "failed",
    "CONTENT_REJECTED": "rejected by the content rules",
    "CANCELLED": "cancelled",
    "EXPIRED": "expired",
}


def status_text(status: str) -> str:
    """Return the words for a state; a state that is not known here is its own text."""
    return STATUS_TEXTS.get(status, status)
