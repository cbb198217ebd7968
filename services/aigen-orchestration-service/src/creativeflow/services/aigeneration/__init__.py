"""The AI generation orchestration service: from a request to the final image, with exact money."""

__version__ = "0.2.0"
