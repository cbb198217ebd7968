"""Export of the usage log as CSV or JSON lines."""

import csv
import io
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson

from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.domain.request import iso

COLUMNS = (
    "at",
    "user_id",
    "project_id",
    "generation_request_id",
    "stage",
    "round",
    "action",
    "paid_by",
    "credits",
    "plan",
    "model",
)
_FORMULA = re.compile(r"(^|[,;|\t\r\n])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""Where a cell begins with a sign that makes it a formula, for a spreadsheet with any separator."""


class UsageFormat(StrEnum):
    """The format of an export."""

    CSV = "csv"
    JSONL = "jsonl"

    @property
    def media_type(self) -> str:
        """The content type of an export."""
        return "text/csv; charset=utf-8" if self is UsageFormat.CSV else "application/jsonl"


async def export(rows: AsyncIterator[dict[str, Any]], as_: UsageFormat) -> AsyncIterator[str]:
    """Yield the export line by line, with bounded memory."""
    write = _csv_line if as_ is UsageFormat.CSV else _json_line
    if as_ is UsageFormat.CSV:
        yield _written(list(COLUMNS))
    async for row in rows:
        yield write(
            row
            | {
                "at": iso(row["at"]),
                "credits": credits_text(row["amount"]),
                "generation_request_id": str(row["request_id"]),
            }
        )


def month_of(text: str) -> tuple[datetime, datetime]:
    """Return the first moment of a month such as 2026-11 and of the next one, in UTC.

    Raises:
        ValueError: the text is no month.
    """
    first = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    return first, first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)


def _csv_line(row: Mapping[str, Any]) -> str:
    return _written([_plain(row[name]) for name in COLUMNS])


def _json_line(row: Mapping[str, Any]) -> str:
    return orjson.dumps({name: row[name] for name in COLUMNS}).decode() + "\n"


def _plain(value: Any) -> Any:
    """Return a cell that spreadsheets do not read as a formula: user ids come from callers."""
    return _FORMULA.sub(r"\1'", value) if isinstance(value, str) else value


def _written(cells: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
