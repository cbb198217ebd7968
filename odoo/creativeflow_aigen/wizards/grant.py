"""Giving credits by hand."""

from uuid import uuid4

from odoo import fields, models
from odoo.exceptions import ValidationError

from ..amounts import hundredths


class CreditGrant(models.TransientModel):
    """One gift; its operation id makes a second press of the button change nothing."""

    _name = "creativeflow.credit.grant"
    _inherit = "creativeflow.allowed.fields"
    _description = "Give credits"

    account_id = fields.Many2one("creativeflow.credit.account", "Account", required=True, ondelete="cascade")
    amount = fields.Char("Credits", required=True, help="Such as 5.00; with a minus sign credits are taken back.")
    reason = fields.Char(required=True)
    operation = fields.Char(required=True, readonly=True, default=lambda self: str(uuid4()))

    def _user_fields(self):
        return super()._user_fields() | {"account_id", "amount", "reason"}

    def action_grant(self):
        """Write the movement and close the form."""
        self.ensure_one()
        try:
            amount = hundredths(self.amount)
        except ValueError:
            amount = 0
        if not amount:
            raise ValidationError(self.env._("Credits are a number with at most two decimal places, such as 5.00."))
        self.account_id._grant(amount, self.operation, self.reason)
        return {"type": "ir.actions.act_window_close"}
