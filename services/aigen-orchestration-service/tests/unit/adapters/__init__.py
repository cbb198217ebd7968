"""Unit tests of `adapters`: no network, no database."""
