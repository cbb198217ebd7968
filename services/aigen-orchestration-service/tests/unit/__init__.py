"""Unit tests, laid out as `src` is: no network, no database."""
