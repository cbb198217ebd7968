"""Who may do what."""

from odoo.exceptions import AccessError, UserError
from odoo.tests import tagged
from odoo.tools import mute_logger

from .common import CreativeFlowCase


@tagged("post_install", "-at_install")
class TestAccess(CreativeFlowCase):
    def test_only_bot_and_managers_move_credits(self):
        for user, allowed in ((self.user, False), (self.bot, True), (self.manager, True)):
            credits_ = self.env["creativeflow.credits"].with_user(user)
            calls = (
                lambda c=credits_: c.creativeflow_hold("k", "rich", "0.25", "hd_export"),
                lambda c=credits_: c.creativeflow_capture("k"),
                lambda c=credits_: c.creativeflow_release("k2", "rich", "0.25", "hd_export"),
                lambda c=credits_: c.creativeflow_find("k"),
                lambda c=credits_: c.creativeflow_entitlements("rich"),
                lambda c=credits_: c.creativeflow_outstanding("2026-01-01T00:00:00Z", 1),
            )
            for call in calls:
                if allowed:
                    self.assertIsInstance(call(), dict)
                else:
                    self.assertRaises(AccessError, call)

    @mute_logger("odoo.addons.base.models.ir_rule", "odoo.addons.base.models.ir_model")
    def test_users_see_their_own_and_the_bot_sees_nothing(self):
        ours = self.generation()
        theirs = ours.with_user(self.other)
        with self.assertRaises(AccessError):
            theirs.read(["name"])
        with self.assertRaises(AccessError):
            theirs.action_generate()
        self.assertEqual(ours.with_user(self.manager).name, "Dawn")
        self.assertEqual(self.account.with_user(self.user).balance, 100)
        with self.assertRaises(AccessError):
            self.account.with_user(self.other).read(["balance"])
        with self.assertRaises(AccessError):
            self.account.with_user(self.bot).read(["balance"])
        with self.assertRaises(AccessError):
            ours.with_user(self.bot).read(["name"])

    @mute_logger("odoo.addons.base.models.ir_model")
    def test_only_managers_give_credits_and_keep_accounts(self):
        with self.assertRaises(AccessError):
            self.account.with_user(self.user).write({"plan": "enterprise"})
        with self.assertRaises(AccessError):
            self.env["creativeflow.credit.grant"].with_user(self.user).create(
                {"account_id": self.account.id, "amount": "5", "reason": "mine"}
            )

    def test_a_user_writes_the_brief_and_nothing_that_the_service_says(self):
        ours = self.generation()
        ours.input_prompt = "A windmill"
        for field, value in (("status", "COMPLETED"), ("user_ref", "somebody"), ("cost_total", "0.00")):
            with self.assertRaises(AccessError):
                ours.write({field: value})
            with self.assertRaises(AccessError):
                self.generation(**{field: value})

    def test_what_is_on_its_way_is_neither_changed_nor_deleted(self):
        ours = self.generation()
        ours.action_generate()
        with self.assertRaises(UserError):
            ours.input_prompt = "Something else"
        with self.assertRaises(UserError):
            ours.unlink()
