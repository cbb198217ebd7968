"""Unit tests of `kit`: no network, no database."""
