"""The invariants of the database, checked at the end of every integration test and journey.

Independent of the counts that the service reports itself, which are checked as well.
"""

from collections import defaultdict
from datetime import datetime
from itertools import pairwise
from typing import Any

from creativeflow.services.aigeneration.domain.lifecycle import (
    TERMINAL,
    TRANSITIONS,
    WITH_JOB,
    Event,
    Origin,
    State,
)
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.invariants import Invariants

BIRTHS = {
    (event.value, row.to.value)
    for (origin, event), row in TRANSITIONS.items()
    if isinstance(origin, Origin)
}


async def violations(database: Database, now: datetime, *, drained: bool = True) -> list[str]:
    """Return every violated invariant; `drained`: no message may be pending or parked."""
    found = [
        *await _timelines(database),
        *await _holds(database),
        *await _ledger(database),
        *await _free_usage(database),
    ]
    if drained:
        found += await _messages(database)
        counts = await Invariants(database).count(now)
        found += [f"the service counts {count} {name}" for name, count in counts.items() if count]
    return found


async def _timelines(database: Database) -> list[str]:
    """Check that each timeline begins with a creation row, is a legal path without gaps, and ends
    in the request's state.
    """
    found = []
    paths: dict[Any, list[Any]] = defaultdict(list)
    for row in await database.fetch_report(
        "SELECT request_id, version, event, state FROM generation_events WHERE state IS NOT NULL"
        " ORDER BY version, seq"
    ):
        paths[row["request_id"]].append(row)
    for request in await database.fetch_report(
        "SELECT id, state, version, deadline_at FROM generation_requests"
    ):
        path = paths.pop(request["id"], [])
        if not path or (path[0]["event"], path[0]["state"]) not in BIRTHS:
            found.append(f"{request['id']}: the timeline does not begin with a birth row")
            continue
        if [row["version"] for row in path] != list(range(1, request["version"] + 1)):
            found.append(
                f"{request['id']}: versions in the timeline are {[row['version'] for row in path]}"
            )
        for before, after in pairwise(path):
            move = TRANSITIONS.get((State(before["state"]), Event(after["event"])))
            if move is None or move.to != after["state"]:
                found.append(
                    f"{request['id']}: {before['state']} -{after['event']}-> {after['state']} is no"
                    " move"
                )
        if path[-1]["state"] != request["state"]:
            found.append(
                f"{request['id']} is {request['state']}, its timeline says {path[-1]['state']}"
            )
        if (request["deadline_at"] is None) != (State(request["state"]) in TERMINAL):
            found.append(
                f"{request['id']} is {request['state']} with deadline {request['deadline_at']}"
            )
    return found + [f"{request_id}: a timeline without a request" for request_id in paths]


async def _holds(database: Database) -> list[str]:
    """Check that held = unfinished charged stage, captured = delivered, and that holds are resolved
    at most once, in time order.
    """
    found = []
    for row in await database.fetch_report(
        """SELECT h.key, h.state AS hold, h.stage, h.round, r.id, r.state, r.stage AS at_stage,
            r.round AS at_round,
                  r.final_asset IS NOT NULL AS final,
                  (SELECT count(*) FROM generation_events e WHERE e.request_id = r.id
                   AND e.event IN ('samples_delivered', 'prompt_rejected')) AS sample_sets
           FROM holds h LEFT JOIN generation_requests r ON r.id = h.request_id"""
    ):
        if row["id"] is None:
            found.append(f"{row['key']}: a hold without a request")
            continue
        working = State(row["state"]) in WITH_JOB and (row["at_stage"], row["at_round"]) == (
            row["stage"],
            row["round"],
        )
        delivered = row["final"] if row["stage"] == "final" else row["sample_sets"] >= row["round"]
        match row["hold"]:
            case "held" if not working:
                found.append(f"{row['key']} is held while the request is {row['state']}")
            case "captured" if not delivered:
                found.append(f"{row['key']} is captured and nothing was delivered")
            case "released" if delivered and row["stage"] == "final":
                found.append(f"{row['key']} is released though the final was delivered")
            case "placing" if State(row["state"]) not in {
                State.VALIDATING_CREDITS,
                State.AWAITING_SELECTION,
            }:
                found.append(
                    f"{row['key']} is still being placed while the request is {row['state']}"
                )
    return found + [
        f"{row['request_id']}: {row['stage']} of round {row['round']} is paid for by {row['paid']}"
        " holds"
        for row in await database.fetch_report(
            """SELECT request_id, stage, round, count(*) AS paid FROM holds
               WHERE state IN ('placing', 'held', 'captured')
               GROUP BY request_id, stage, round HAVING count(*) > 1"""
        )
    ]


async def _ledger(database: Database) -> list[str]:
    """Check that every operation sums to zero, balances equal their entries, and holds are resolved
    at most once.
    """
    found = [
        f"operation {row['operation']} sums to {row['total']}"
        for row in await database.fetch_report(
            "SELECT operation, sum(amount) AS total FROM credit_entries GROUP BY operation HAVING"
            " sum(amount) <> 0"
        )
    ]
    found += [
        f"{row['user_id']} has {row['balance']}, the entries say {row['total']}"
        for row in await database.fetch_report(
            """SELECT a.user_id, a.balance, COALESCE(sum(e.amount), 0) AS total
                FROM credit_accounts a
               LEFT JOIN credit_entries e ON e.account = 'user:' || a.user_id
               GROUP BY a.user_id, a.balance HAVING a.balance <> COALESCE(sum(e.amount), 0)
                   OR a.balance < 0"""
        )
    ]
    found += [
        f"{row['account']} keeps {row['total']}, the hold is {row['state']}"
        for row in await database.fetch_report(
            """SELECT e.account, sum(e.amount) AS total, max(h.state) AS state FROM credit_entries e
               LEFT JOIN holds h ON e.account = 'held:' || h.key
               WHERE e.account LIKE 'held:%' GROUP BY e.account
               HAVING sum(e.amount) <> CASE WHEN max(h.state) IN ('held', 'placing')
                   OR bool_or(h.settled_at IS NULL
                   AND h.state IN ('captured', 'released')) THEN sum(e.amount) ELSE 0 END"""
        )
    ]
    return found


async def _free_usage(database: Database) -> list[str]:
    """Check that the month's count equals the captured allowances."""
    return [
        f"{row['user_id']} has used {row['used']} free generations, the holds say {row['kept']}"
        for row in await database.fetch_report(
            """SELECT u.user_id, u.used, count(h.key) AS kept FROM free_usage u
               LEFT JOIN holds h ON h.user_id = u.user_id AND h.month = u.month
                   AND h.funding = 'allowance'
                   AND h.state IN ('held', 'captured')
               GROUP BY u.user_id, u.month, u.used HAVING u.used <> count(h.key)"""
        )
    ]


async def _messages(database: Database) -> list[str]:
    """Check that the outbox is empty, holds are settled, and ends were announced in order
    and once.
    """
    found = [
        f"message {row['id']} {row['topic']} is still owed:"
        f" {row['parked_reason'] or row['last_error']}"
        for row in await database.fetch_report(
            "SELECT id, topic, parked_reason, last_error FROM outbox"
        )
    ]
    found += [
        f"{row['key']} is {row['state']} and was never settled"
        for row in await database.fetch_report(
            """SELECT key, state FROM holds WHERE funding = 'credits' AND settled_at IS NULL
               AND state IN ('captured', 'released')"""
        )
    ]
    found += [
        f"{row['id']} ended as {row['state']} and was announced {row['times']} times"
        for row in await database.fetch_report(
            """SELECT r.id, r.state, count(e.seq) AS times FROM generation_requests r
               LEFT JOIN generation_events e ON e.request_id = r.id
                   AND e.event = 'notification_sent'
                   AND e.data->>'event_type' IN ('final_asset_ready', 'generation_failed',
                       'generation_cancelled',
                                                 'generation_expired')
               WHERE r.deadline_at IS NULL GROUP BY r.id, r.state HAVING count(e.seq) <> 1"""
        )
    ]
    return found
