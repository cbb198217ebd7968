"""Unit tests of `application`: no network, no database."""
