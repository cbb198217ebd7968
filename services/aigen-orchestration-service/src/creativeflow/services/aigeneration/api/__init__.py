"""The HTTP interface: what callers, workers and operators can ask for."""
