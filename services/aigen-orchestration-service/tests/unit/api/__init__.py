"""Unit tests of `api`: no network, no database."""
