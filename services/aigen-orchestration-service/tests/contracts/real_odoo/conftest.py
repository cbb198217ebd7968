"""Whether there is a real Odoo to test against, and a word where there is none."""

import os
from collections.abc import Sequence

import pytest

pytest.register_assert_rewrite("credits_suite")

NEEDED = ("ODOO_URL", "ODOO_DB", "ODOO_LOGIN", "ODOO_API_KEY")
MISSING = [name for name in NEEDED if not os.environ.get(name)]

collect_ignore: Sequence[str] = ["test_real_odoo.py"] if MISSING else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, and how to have it."""
    if MISSING:
        terminalreporter.write_line(
            f"tests/odoo not run: set {', '.join(MISSING)} (docs/odoo.md says how)"
        )
