"""Unit tests of `web`: no network, no database."""
