"""Unit tests of `domain`: no network, no database."""
