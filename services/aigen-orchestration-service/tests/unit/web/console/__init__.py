"""Unit tests of `web.console`."""
