"""Tests of the Python client's distribution, calls and types."""
