"""Accounts, holds and movements as Odoo shows them; they are moved by `ledger` alone."""

from odoo import api, fields, models
from odoo.exceptions import UserError
from odoo.release import version_info

from .. import ledger
from ..amounts import decimal_text

PLANS = [
    ("free", "Free"),
    ("payg", "Pay as you go"),
    ("pro", "Pro"),
    ("team", "Team"),
    ("enterprise", "Enterprise"),
]
STATUSES = [
    ("active", "Active"),
    ("trial", "Trial"),
    ("suspended", "Suspended"),
    ("cancelled", "Cancelled"),
    ("expired", "Expired"),
]
ACTIONS = [
    ("sample_generation", "Samples"),
    ("standard_generation", "Final"),
    ("hd_export", "High-resolution final"),
    ("advanced_ai_feature", "Advanced AI"),
]


class Hundredths(fields.Integer):
    """An amount in hundredths of a credit: 64 bits, where Odoo's integers have 32."""

    _column_type = ("int8", "int8")


class CreditAccount(models.Model):
    """What a user of the service may spend, and under which plan."""

    _name = "creativeflow.credit.account"
    _inherit = "creativeflow.allowed.fields"
    _description = "Credit account"
    _rec_name = "user_ref"
    _order = "user_ref"

    user_ref = fields.Char(
        "User id", required=True, copy=False, help="The id under which the generation service knows the user."
    )
    partner_id = fields.Many2one("res.partner", "Contact", index=True, ondelete="set null")
    plan = fields.Selection(PLANS, required=True, default="free")
    status = fields.Selection(
        STATUSES,
        required=True,
        default="active",
        help="Suspended accounts are restricted; cancelled and expired ones have the terms of the Free plan.",
    )
    restricted = fields.Boolean(help="No generation is started for a restricted account until this is cleared.")
    balance = Hundredths("Balance in hundredths", required=True, readonly=True, copy=False, default=0)
    balance_text = fields.Char("Balance", compute="_compute_balance_text", help="In credits.")
    movement_ids = fields.One2many("creativeflow.credit.movement", "account_id", "Statement", readonly=True)

    if version_info[0] >= 19:
        _user_ref_unique = models.Constraint("UNIQUE (user_ref)", "There is an account for this user id already.")
        _partner_unique = models.Constraint("UNIQUE (partner_id)", "This contact has an account already.")
        _balance_floor = models.Constraint("CHECK (balance >= 0)", "A balance cannot be below zero.")
    else:
        _sql_constraints = [
            ("user_ref_unique", "UNIQUE (user_ref)", "There is an account for this user id already."),
            ("partner_unique", "UNIQUE (partner_id)", "This contact has an account already."),
            ("balance_floor", "CHECK (balance >= 0)", "A balance cannot be below zero."),
        ]

    @api.depends("balance")
    def _compute_balance_text(self):
        for account in self:
            account.balance_text = decimal_text(account.balance)

    def _user_fields(self):
        return super()._user_fields() | {"user_ref", "partner_id", "plan", "status", "restricted"}

    @api.model_create_multi
    def create(self, vals_list):
        """Every account begins at zero: what is on it has come by a movement."""
        return super().create([{**vals, "balance": 0} for vals in vals_list])

    def write(self, vals):
        """Everything but the balance, which only movements change, and the user id, by which holds are known."""
        if "balance" in vals:
            raise UserError(self.env._("A balance is changed by giving credits, never by hand."))
        if "user_ref" in vals and any(account.movement_ids for account in self.sudo()):
            raise UserError(self.env._("The user id of an account with a statement cannot change."))
        return super().write(vals)

    def _grant(self, amount, operation, reason):
        """Give an amount in hundredths, once per operation, in the transaction of the caller.

        Raises:
            UserError: taking back more than is there.
        """
        self.ensure_one()
        self.env.flush_all()
        allowed = ledger.grant(
            self.env.cr, operation=operation, account_id=self.id, amount=amount, reason=reason, by=self.env.user.login
        )
        if not allowed:
            raise UserError(
                self.env._("The account has %s credits: that much cannot be taken back.", self.balance_text)
            )
        self.invalidate_recordset(["balance", "balance_text", "movement_ids"])

    def action_grant(self):
        """Open the form that gives credits to this account."""
        self.ensure_one()
        return {
            "type": "ir.actions.act_window",
            "res_model": "creativeflow.credit.grant",
            "view_mode": "form",
            "target": "new",
            "name": self.env._("Give credits"),
            "context": {"default_account_id": self.id},
        }

    def action_statement(self):
        """Open the movements of this account."""
        self.ensure_one()
        action = self.env["ir.actions.act_window"]._for_xml_id("creativeflow_aigen.action_movements")
        return {**action, "domain": [("account_id", "=", self.id)], "context": {}}


class WrittenByTheLedger(models.AbstractModel):
    """Rows that the ledger writes in SQL; through Odoo they can only be read."""

    _name = "creativeflow.ledger.row"
    _inherit = "creativeflow.allowed.fields"
    _description = "Row of the credit ledger"
    _log_access = False  # a deleted user would change the row by its foreign keys

    def _refuse(self):
        raise UserError(self.env._("The credit ledger is written by credit operations alone."))

    @api.model_create_multi
    def create(self, vals_list):
        """Refused."""
        self._refuse()

    def write(self, vals):
        """Refused."""
        self._refuse()

    def unlink(self):
        """Refused."""
        self._refuse()


class CreditHold(models.Model):
    """An amount that is set aside for one stage of one request, until it is captured or released."""

    _name = "creativeflow.credit.hold"
    _inherit = "creativeflow.ledger.row"
    _description = "Credit hold"
    _rec_name = "key"
    _order = "id desc"
    _log_access = False

    key = fields.Char(required=True, readonly=True)
    account_id = fields.Many2one(
        "creativeflow.credit.account", "Account", readonly=True, index=True, ondelete="restrict"
    )
    user_ref = fields.Char("User id", required=True, readonly=True)
    amount = Hundredths("Amount in hundredths", required=True, readonly=True)
    amount_text = fields.Char("Credits", compute="_compute_amount_text")
    action = fields.Selection(ACTIONS, required=True, readonly=True)
    state = fields.Selection(
        [("held", "Held"), ("captured", "Captured"), ("released", "Released")], required=True, readonly=True
    )
    held_at = fields.Datetime(required=True, readonly=True)
    resolved_at = fields.Datetime(readonly=True)

    if version_info[0] >= 19:
        _key_unique = models.Constraint("UNIQUE (key)", "A key is one hold.")
    else:
        _sql_constraints = [("key_unique", "UNIQUE (key)", "A key is one hold.")]

    def init(self):
        """Index what is still held: the only rows anybody lists."""
        self.env.cr.execute(
            "CREATE INDEX IF NOT EXISTS creativeflow_credit_hold_open ON creativeflow_credit_hold (held_at)"
            " WHERE state = 'held'"
        )

    @api.depends("amount")
    def _compute_amount_text(self):
        for hold in self:
            hold.amount_text = decimal_text(hold.amount)


class CreditMovement(models.Model):
    """One line of an account's statement; never changed, never deleted. Its changes add up to the balance."""

    _name = "creativeflow.credit.movement"
    _inherit = "creativeflow.ledger.row"
    _description = "Credit movement"
    _rec_name = "operation"
    _order = "id desc"
    _log_access = False

    operation = fields.Char(required=True, readonly=True, help="What happened to which key; happens once.")
    account_id = fields.Many2one(
        "creativeflow.credit.account", "Account", required=True, readonly=True, index=True, ondelete="restrict"
    )
    kind = fields.Selection(
        [("grant", "Given"), ("hold", "Set aside"), ("capture", "Charged"), ("release", "Given back")],
        required=True,
        readonly=True,
    )
    amount = Hundredths("Amount in hundredths", required=True, readonly=True)
    change = Hundredths("Change in hundredths", required=True, readonly=True)
    amount_text = fields.Char("Credits", compute="_compute_texts")
    change_text = fields.Char("Change of the balance", compute="_compute_texts")
    action = fields.Selection(ACTIONS, "For", readonly=True)
    reason = fields.Char(readonly=True)
    recorded_by = fields.Char("By", readonly=True, help="The login of whoever gave the credits.")
    recorded_at = fields.Datetime("At", required=True, readonly=True)

    if version_info[0] >= 19:
        _operation_unique = models.Constraint("UNIQUE (operation)", "An operation happens once.")
    else:
        _sql_constraints = [("operation_unique", "UNIQUE (operation)", "An operation happens once.")]

    def init(self):
        """Let the database refuse what Odoo refuses: the statement is evidence."""
        self.env.cr.execute(
            """
            CREATE OR REPLACE FUNCTION creativeflow_movements_stay() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'credit movements are never changed or deleted'; END $$;
            DROP TRIGGER IF EXISTS creativeflow_movements_stay ON creativeflow_credit_movement;
            CREATE TRIGGER creativeflow_movements_stay BEFORE UPDATE OR DELETE OR TRUNCATE
                ON creativeflow_credit_movement FOR EACH STATEMENT EXECUTE FUNCTION creativeflow_movements_stay();
            """
        )

    @api.depends("amount", "change")
    def _compute_texts(self):
        for movement in self:
            movement.amount_text = decimal_text(movement.amount)
            movement.change_text = decimal_text(movement.change)
