"""No cell of an export is a formula, whatever the separator of the spreadsheet."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from creativeflow.services.aigeneration.application.usage_export import COLUMNS, UsageFormat, export


async def _cell(user_id: str, separator: str = ",") -> str:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield dict.fromkeys(COLUMNS, "x") | {
            "at": datetime(2026, 1, 1, tzinfo=UTC),
            "user_id": user_id,
            "amount": 25,
            "request_id": "r",
        }

    text = "".join([line async for line in export(rows(), UsageFormat.CSV)])
    return list(csv.reader(io.StringIO(text), delimiter=separator))[1][1]


@pytest.mark.parametrize(
    ("user_id", "cell"),
    [
        ("=cmd", "'=cmd"),
        (" =cmd", "' =cmd"),
        ("\uff1dcmd", "'\uff1dcmd"),
        ("a;=cmd", "a;'=cmd"),
        ("a;b; +1", "a;b;' +1"),
        ("a\t@SUM(1)", "a\t'@SUM(1)"),
        ("a\n-1", "a\n'-1"),
        ("a|=1", "a|'=1"),
        ("user-1", "user-1"),
        ("a=b", "a=b"),
        ("ada@example.com", "ada@example.com"),
        ("a;b", "a;b"),
    ],
)
async def test_export_cell_is_no_formula(user_id: str, cell: str) -> None:
    assert await _cell(user_id) == cell


@pytest.mark.parametrize("separator", [";", "\t"])
async def test_export_cell_is_no_formula_for_another_separator(separator: str) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield dict.fromkeys(COLUMNS, "x") | {
            "at": datetime(2026, 1, 1, tzinfo=UTC),
            "user_id": f"a{separator}=cmd|'/c calc'!A1",
            "amount": 25,
            "request_id": "r",
        }

    text = "".join([line async for line in export(rows(), UsageFormat.CSV)])
    cells = next(csv.reader(io.StringIO(text.splitlines()[1]), delimiter=separator))
    assert len(cells) > 1
    assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@"))]
