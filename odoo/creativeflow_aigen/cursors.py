"""Transactions of our own, beside the one of the caller."""

from contextlib import contextmanager

from odoo import SUPERUSER_ID, api
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


@contextmanager
def own_env(registry):
    """The system's environment in a transaction of its own.

    It is held and flushed here: at its commit a cursor writes what waits in environments, but it refers to them weakly
    and forgets the writes of those that nobody holds any more.
    """
    with own_cursor(registry) as cr:
        env = api.Environment(cr, SUPERUSER_ID, {})
        yield env
        env.flush_all()
