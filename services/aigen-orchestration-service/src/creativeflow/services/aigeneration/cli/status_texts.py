"""The states of a generation as text for a terminal."""

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
    """Return the text of a state; an unknown state is its own text."""
    return STATUS_TEXTS.get(status, status)
