"""Every statement that moves credits; each function runs inside one READ COMMITTED transaction of its caller.

What makes them exact for any number of callers: the unique key decides who comes first, a guarded UPDATE takes the
money only where it is there, and a CHECK on the balance is the last net. All of them lock the hold before the account,
so they cannot wait for each other in a circle. Amounts are hundredths of a credit.
"""

HELD, REFUSED, CONFLICT = "held", "refused", "conflict"
CAPTURED, RELEASED, ABSENT = "captured", "released", "absent"
NOW = "(now() AT TIME ZONE 'UTC')"


def hold(cr, *, key, user_ref, amount, action):
    """Set an amount aside under a key; returns held, refused or conflict.

    Held is also the answer to the same call again. Refused has written nothing that may stay: the caller rolls back,
    and the key is free for another try after a top-up.
    """
    cr.execute(
        f"""INSERT INTO creativeflow_credit_hold (key, user_ref, account_id, amount, action, state, held_at)
            VALUES (%s, %s, (SELECT id FROM creativeflow_credit_account WHERE user_ref = %s), %s, %s, 'held', {NOW})
            ON CONFLICT (key) DO NOTHING RETURNING account_id""",
        (key, user_ref, user_ref, amount, action),
    )
    if not (inserted := cr.fetchone()):
        cr.execute("SELECT user_ref, amount, state FROM creativeflow_credit_hold WHERE key = %s", (key,))
        return HELD if cr.fetchone() == (user_ref, amount, "held") else CONFLICT
    account_id = inserted[0]
    if not _change_balance(cr, account_id, -amount):
        return REFUSED
    _write_movement(cr, f"hold:{key}", account_id, "hold", amount=amount, change=-amount, action=action)
    return HELD


def capture(cr, *, key):
    """Take what is held; returns what the key is afterwards: captured, released or absent."""
    cr.execute(
        f"""UPDATE creativeflow_credit_hold SET state = 'captured', resolved_at = {NOW}
            WHERE key = %s AND state = 'held' RETURNING account_id, amount, action""",
        (key,),
    )
    if taken := cr.fetchone():
        account_id, amount, action = taken
        _write_movement(cr, f"capture:{key}", account_id, "capture", amount=amount, change=0, action=action)
    return find(cr, key=key)


def release(cr, *, key, user_ref, action):
    """Give back what is held; returns released or captured.

    A key that was never held is closed by a row of amount 0: a hold that arrives later finds it and is a conflict.
    """
    cr.execute(
        f"""INSERT INTO creativeflow_credit_hold (key, user_ref, amount, action, state, held_at, resolved_at)
            VALUES (%s, %s, 0, %s, 'released', {NOW}, {NOW}) ON CONFLICT (key) DO NOTHING RETURNING id""",
        (key, user_ref, action),
    )
    if cr.fetchone():
        return RELEASED
    cr.execute(
        f"""UPDATE creativeflow_credit_hold SET state = 'released', resolved_at = {NOW}
            WHERE key = %s AND state = 'held' RETURNING account_id, amount, action""",
        (key,),
    )
    if given := cr.fetchone():
        account_id, amount, held_for = given
        _change_balance(cr, account_id, amount)
        _write_movement(cr, f"release:{key}", account_id, "release", amount=amount, change=amount, action=held_for)
    return find(cr, key=key)


def find(cr, *, key):
    """What is known under the key: absent, held, captured or released."""
    cr.execute("SELECT state FROM creativeflow_credit_hold WHERE key = %s", (key,))
    found = cr.fetchone()
    return found[0] if found else ABSENT


def outstanding(cr, *, before, limit):
    """Key, user, amount and action of what is held since before a UTC time, the oldest first."""
    cr.execute(
        """SELECT key, user_ref, amount, action FROM creativeflow_credit_hold
           WHERE state = 'held' AND held_at < %s ORDER BY held_at, id LIMIT %s""",
        (before, limit),
    )
    return cr.fetchall()


def account(cr, *, user_ref):
    """Plan, status, restricted and balance of a user, or None."""
    cr.execute(
        "SELECT plan, status, COALESCE(restricted, false), balance FROM creativeflow_credit_account"
        " WHERE user_ref = %s",
        (user_ref,),
    )
    return cr.fetchone()


def grant(cr, *, operation, account_id, amount, reason, by):
    """Give credits, or take some back where `amount` is negative; returns whether the balance allowed it.

    The same operation again changes nothing and is allowed. Not allowed has written a movement that must not stay:
    the caller rolls back.
    """
    if not _write_movement(
        cr, f"grant:{operation}", account_id, "grant", amount=amount, change=amount, reason=reason, by=by
    ):
        return True
    return _change_balance(cr, account_id, amount)


def _change_balance(cr, account_id, change):
    cr.execute(
        "UPDATE creativeflow_credit_account SET balance = balance + %s WHERE id = %s AND balance + %s >= 0",
        (change, account_id, change),
    )
    return cr.rowcount == 1


def _write_movement(cr, operation, account_id, kind, *, amount, change, action=None, reason=None, by=None):
    """Write one line of the statement; returns whether it is new."""
    cr.execute(
        f"""INSERT INTO creativeflow_credit_movement
                (operation, account_id, kind, amount, change, action, reason, recorded_by, recorded_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, {NOW}) ON CONFLICT (operation) DO NOTHING""",
        (operation, account_id, kind, amount, change, action, reason, by),
    )
    return cr.rowcount == 1
