"""Select the tests on a real Odoo if one is configured, and report if not."""

import os
from collections.abc import Sequence

import pytest

pytest.register_assert_rewrite("credits_suite")

NEEDED = ("ODOO_URL", "ODOO_DB", "ODOO_LOGIN", "ODOO_API_KEY")
MISSING = [name for name in NEEDED if not os.environ.get(name)]

collect_ignore: Sequence[str] = ["test_real_odoo.py"] if MISSING else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report which tests were not run, and how to run them."""
    if MISSING:
        terminalreporter.write_line(
            f"tests/odoo not run: set {', '.join(MISSING)} (docs/odoo.md says how)"
        )
