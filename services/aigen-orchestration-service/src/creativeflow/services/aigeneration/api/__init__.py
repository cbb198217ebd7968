"""The HTTP interface for callers, workers and operators."""
