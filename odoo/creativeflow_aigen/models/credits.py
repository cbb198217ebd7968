"""The credit service of the generation service: one method per operation, each idempotent on its key."""

from datetime import datetime, timezone

from odoo import api, models
from odoo.exceptions import AccessError, ValidationError

from .. import ledger
from ..amounts import decimal_text, hundredths
from ..cursors import own_cursor
from .credit import ACTIONS

LISTED_MAX = 1000
LENGTH_MAX = 255
_ACTIONS = {action for action, _ in ACTIONS}


class Credits(models.AbstractModel):
    """Called by the generation service with the API key of a bot user.

    Every operation is one transaction of its own and is committed before it answers, so an answer stays true whatever
    becomes of the transaction around it. A caller who got no answer asks again with the same key. Amounts are decimal
    texts. What may happen in business is in the answer; exceptions are for callers who are not allowed or not right.
    """

    _name = "creativeflow.credits"
    _description = "Credit operations"

    @api.model
    def creativeflow_hold(self, key, user_id, amount, action):
        """Set an amount aside: `held` (also the same again), `refused` (too little is there), `conflict`.

        A conflict is a key that stands for another user or amount, or that was captured or released.
        """
        self._check_caller()
        asked = {
            "key": self._text("key", key),
            "user_ref": self._text("user_id", user_id),
            "amount": self._amount(amount),
            "action": self._action(action),
        }
        with own_cursor(self.env.registry) as cr:
            outcome = ledger.hold(cr, **asked)
            if outcome == ledger.REFUSED:
                cr.rollback()
            found = ledger.account(cr, user_ref=asked["user_ref"])
        return {"outcome": outcome, "balance": decimal_text(found[3] if found else 0)}

    @api.model
    def creativeflow_capture(self, key):
        """Take what is held; says what the key is afterwards: `captured`, `released` or `absent`."""
        self._check_caller()
        with own_cursor(self.env.registry) as cr:
            return {"status": ledger.capture(cr, key=self._text("key", key))}

    @api.model
    def creativeflow_release(self, key, user_id, amount, action):
        """Give back what is held, or close a key that never was; says what it is afterwards: `released`, `captured`."""
        self._check_caller()
        self._amount(amount)
        asked = {
            "key": self._text("key", key),
            "user_ref": self._text("user_id", user_id),
            "action": self._action(action),
        }
        with own_cursor(self.env.registry) as cr:
            return {"status": ledger.release(cr, **asked)}

    @api.model
    def creativeflow_find(self, key):
        """What is known under the key: `absent`, `held`, `captured` or `released`."""
        self._check_caller()
        return {"status": ledger.find(self.env.cr, key=self._text("key", key))}

    @api.model
    def creativeflow_entitlements(self, user_id):
        """Plan, status, restricted and balance; unknown users are on the Free plan."""
        self._check_caller()
        self.env.flush_all()
        found = ledger.account(self.env.cr, user_ref=self._text("user_id", user_id))
        plan, status, restricted, balance = found or ("free", "active", False, 0)
        return {"plan": plan, "status": status, "restricted": restricted, "balance": decimal_text(balance)}

    @api.model
    def creativeflow_outstanding(self, before, limit):
        """Holds from before an ISO 8601 time that were neither captured nor released, the oldest first."""
        self._check_caller()
        try:
            moment = datetime.fromisoformat(before)
        except (TypeError, ValueError):
            raise ValidationError(self.env._("`before` is a time in ISO 8601.")) from None
        moment = moment.replace(tzinfo=moment.tzinfo or timezone.utc).astimezone(timezone.utc).replace(tzinfo=None)
        if type(limit) is not int or not 0 < limit <= LISTED_MAX:
            raise ValidationError(self.env._("`limit` is a whole number from 1 to %s.", LISTED_MAX))
        found = ledger.outstanding(self.env.cr, before=moment, limit=limit)
        return {
            "holds": [
                {"key": key, "user_id": user_ref, "amount": decimal_text(amount), "action": action}
                for key, user_ref, amount, action in found
            ]
        }

    def _check_caller(self):
        if not any(
            self.env.user.has_group(f"creativeflow_aigen.{group}") for group in ("group_credits_bot", "group_manager")
        ):
            raise AccessError(self.env._("Only the credit bot and CreativeFlow managers may move credits."))

    def _text(self, name, value):
        if not isinstance(value, str) or not 0 < len(value) <= LENGTH_MAX or not value.isprintable():
            raise ValidationError(self.env._("`%s` is a line of 1 to %s characters.", name, LENGTH_MAX))
        return value

    def _amount(self, value):
        try:
            amount = hundredths(value)
        except ValueError:
            amount = 0
        if amount <= 0:
            raise ValidationError(self.env._("`amount` is a decimal text above zero, such as 0.25."))
        return amount

    def _action(self, value):
        if value not in _ACTIONS:
            raise ValidationError(self.env._("`action` is one of %s.", ", ".join(sorted(_ACTIONS))))
        return value
