"""The sets of states that statements speak of, as SQL; `domain/lifecycle.py` defines them."""

from collections.abc import Collection

from creativeflow.services.aigeneration.domain import lifecycle
from creativeflow.services.aigeneration.domain.lifecycle import State


def to_sql(states: Collection[State]) -> str:
    """Return the states as a list for `IN`, in the order of their definition."""
    quoted = [f"'{state}'" for state in State if state in states]
    return f"({', '.join(quoted)})"


SQL_WITH_JOB = to_sql(lifecycle.WITH_JOB)
SQL_IN_FLIGHT = to_sql(lifecycle.IN_FLIGHT)
SQL_AT_WORK = to_sql(lifecycle.AT_WORK)
