"""Transactions of our own, beside the one of the caller."""

from contextlib import contextmanager

from psycopg2.extensions import TRANSACTION_STATUS_IDLE


@contextmanager
def own_cursor(registry):
    """A cursor of its own in READ COMMITTED, committed at the end of the block and rolled back when it raises.

    Odoo's cursors are REPEATABLE READ: statements that wait for each other's rows then fail and are tried again with
    sleeps of seconds. In READ COMMITTED they wait and see what was committed, and guards in their WHERE decide. The
    level can be set before the first statement only; where transactions are nested in a running one, as in Odoo's
    tests, there is nobody to wait for and the level stays.
    """
    with registry.cursor() as cr:
        if cr.connection.get_transaction_status() == TRANSACTION_STATUS_IDLE:
            cr.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        yield cr
