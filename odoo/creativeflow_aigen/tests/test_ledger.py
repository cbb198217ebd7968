"""Every credit exactly once; what several callers do at a time is tried from outside, over HTTP."""

import psycopg2
from odoo.exceptions import UserError, ValidationError
from odoo.tests import tagged
from odoo.tools import mute_logger

from ..amounts import decimal_text, hundredths
from .common import CreativeFlowCase


@tagged("post_install", "-at_install")
class TestLedger(CreativeFlowCase):
    def setUp(self):
        super().setUp()
        self.credits = self.env["creativeflow.credits"].with_user(self.bot)

    def hold(self, key="k", user="rich", amount="0.25", action="sample_generation"):
        return self.credits.creativeflow_hold(key=key, user_id=user, amount=amount, action=action)

    def release(self, key="k"):
        return self.credits.creativeflow_release(key=key, user_id="rich", amount="0.25", action="sample_generation")

    def test_a_hold_is_taken_once_and_the_same_call_says_so_again(self):
        self.assertEqual(self.hold(), {"outcome": "held", "balance": "0.75"})
        self.assertEqual(self.hold(), {"outcome": "held", "balance": "0.75"})
        self.assertEqual(self.credits.creativeflow_find(key="k"), {"status": "held"})

    def test_another_amount_or_user_under_the_key_is_a_conflict(self):
        self.hold()
        self.assertEqual(self.hold(amount="0.26")["outcome"], "conflict")
        self.assertEqual(self.hold(user="poor")["outcome"], "conflict")
        self.assertEqual(self.balance(), 75)

    def test_a_refused_hold_leaves_its_key_free_for_a_try_after_a_top_up(self):
        self.assertEqual(self.hold(amount="1.01"), {"outcome": "refused", "balance": "1.00"})
        self.assertEqual(self.credits.creativeflow_find(key="k"), {"status": "absent"})
        self.account._grant(1, "top-up", "one more")
        self.assertEqual(self.hold(amount="1.01"), {"outcome": "held", "balance": "0.00"})

    def test_a_user_without_an_account_is_refused(self):
        self.assertEqual(self.hold(user="nobody"), {"outcome": "refused", "balance": "0.00"})

    def test_what_is_captured_stays_captured(self):
        self.hold()
        for _ in range(2):
            self.assertEqual(self.credits.creativeflow_capture(key="k"), {"status": "captured"})
        self.assertEqual(self.release(), {"status": "captured"})
        self.assertEqual(self.hold()["outcome"], "conflict")
        self.assertEqual(self.balance(), 75)

    def test_what_is_released_is_given_back_once(self):
        self.hold()
        for _ in range(2):
            self.assertEqual(self.release(), {"status": "released"})
        self.assertEqual(self.credits.creativeflow_capture(key="k"), {"status": "released"})
        self.assertEqual(self.hold()["outcome"], "conflict")
        self.assertEqual(self.balance(), 100)

    def test_a_release_closes_a_key_that_was_never_held(self):
        self.assertEqual(self.release("late"), {"status": "released"})
        self.assertEqual(self.hold("late")["outcome"], "conflict")
        self.assertEqual(self.balance(), 100)

    def test_a_capture_of_what_was_never_held_says_absent(self):
        self.assertEqual(self.credits.creativeflow_capture(key="never"), {"status": "absent"})

    def test_open_holds_are_listed_the_oldest_first(self):
        for key in ("a", "b", "c"):
            self.hold(key, amount="0.10")
        self.credits.creativeflow_capture(key="b")
        self.cr.execute("UPDATE creativeflow_credit_hold SET held_at = '2000-01-01' WHERE user_ref = 'rich'")
        listed = self.credits.creativeflow_outstanding(before="2000-01-02T00:00:00+00:00", limit=1000)["holds"]
        self.assertEqual([hold["key"] for hold in listed], ["a", "c"])
        self.assertEqual(listed[0], {"key": "a", "user_id": "rich", "amount": "0.10", "action": "sample_generation"})
        self.assertEqual(self.credits.creativeflow_outstanding(before="2000-01-01T00:00:00Z", limit=5), {"holds": []})

    def test_entitlements_of_known_and_unknown_users(self):
        self.assertEqual(
            self.credits.creativeflow_entitlements(user_id="rich"),
            {"plan": "payg", "status": "active", "restricted": False, "balance": "1.00"},
        )
        self.assertEqual(
            self.credits.creativeflow_entitlements(user_id="nobody"),
            {"plan": "free", "status": "active", "restricted": False, "balance": "0.00"},
        )

    def test_calls_that_are_not_right_are_refused_and_charge_nothing(self):
        for wrong in (
            {"action": "another"},
            {"amount": "0.00"},
            {"amount": "-1.00"},
            {"amount": "0.001"},
            {"amount": 0.25},
            {"key": ""},
            {"user": "two\nlines"},
        ):
            with self.assertRaises(ValidationError, msg=wrong):
                self.hold(**wrong)
        with self.assertRaises(ValidationError):
            self.credits.creativeflow_outstanding(before="yesterday", limit=1)
        with self.assertRaises(ValidationError):
            self.credits.creativeflow_outstanding(before="2026-01-01T00:00:00Z", limit=0)
        self.assertEqual(self.balance(), 100)

    def test_the_changes_of_an_account_add_up_to_its_balance(self):
        self.hold("a")
        self.hold("b", amount="0.50")
        self.credits.creativeflow_capture(key="a")
        self.release("b")
        self.account.invalidate_recordset()
        self.assertEqual(sum(self.account.movement_ids.mapped("change")), self.balance())
        self.assertEqual(
            sorted(self.account.movement_ids.mapped("operation")),
            ["capture:a", "grant:first", "hold:a", "hold:b", "release:b"],
        )

    def test_one_operation_gives_once_and_nobody_takes_back_more_than_there_is(self):
        self.account._grant(100, "first", "again")
        self.assertEqual(self.balance(), 100)
        with self.assertRaises(UserError):
            self.account._grant(-101, "too much", "taken back")

    def test_the_form_of_managers_gives_once_however_often_it_is_pressed(self):
        form = (
            self.env["creativeflow.credit.grant"]
            .with_user(self.manager)
            .create({"account_id": self.account.id, "amount": "2.50", "reason": "invoice 7"})
        )
        form.action_grant()
        form.action_grant()
        self.assertEqual(self.balance(), 350)
        with self.assertRaises(ValidationError):
            form.copy({"amount": "much", "operation": "other"}).action_grant()

    @mute_logger("odoo.sql_db")
    def test_account_of_a_contact_that_has_one_is_refused(self):
        accounts = self.env["creativeflow.credit.account"].with_user(self.manager)
        contact = self.user.partner_id.id
        with self.assertRaises(psycopg2.errors.UniqueViolation), self.cr.savepoint():
            accounts.create({"user_ref": "second", "partner_id": contact})
        free = accounts.create([{"user_ref": "no contact"}, {"user_ref": "no contact either"}])
        with self.assertRaises(psycopg2.errors.UniqueViolation), self.cr.savepoint():
            free[0].partner_id = contact
            free.flush_recordset()
        self.assertEqual(self.balance(), 100)

    @mute_logger("odoo.sql_db", "odoo.addons.base.wizard.base_partner_merge", "odoo.addons.base.partner.merge")
    def test_merge_of_two_contacts_with_credits_is_refused(self):
        contacts = self.env["res.partner"].create([{"name": "A", "email": "a@x"}, {"name": "A", "email": "a@x"}])
        accounts = self.env["creativeflow.credit.account"].create(
            [{"user_ref": f"merged-{contact.id}", "partner_id": contact.id} for contact in contacts]
        )
        for account in accounts:
            account._grant(50, f"merged-{account.id}", "for the tests")
        merge = self.env["base.partner.merge.automatic.wizard"]
        with self.assertRaises(psycopg2.errors.ForeignKeyViolation), self.cr.savepoint():
            merge._merge(contacts.ids, contacts[0])
        accounts.invalidate_recordset()
        self.assertEqual(accounts.mapped("balance"), [50, 50])

    def test_movements_stay_as_they_are(self):
        movement = self.account.movement_ids[0]
        for attempt in (lambda: movement.write({"amount": 1}), movement.unlink, lambda: movement.create({})):
            with self.assertRaises(UserError):
                attempt()
        for statement in (
            "UPDATE creativeflow_credit_movement SET amount = 1",
            "DELETE FROM creativeflow_credit_movement",
        ):
            with self.assertRaises(psycopg2.errors.RaiseException), mute_logger("odoo.sql_db"), self.cr.savepoint():
                self.cr.execute(statement)

    def test_a_balance_is_never_written_by_hand_and_never_below_zero(self):
        with self.assertRaises(UserError):
            self.account.balance = 1_000
        with self.assertRaises(UserError):
            self.account.user_ref = "another"
        with self.assertRaises(psycopg2.errors.CheckViolation), mute_logger("odoo.sql_db"), self.cr.savepoint():
            self.cr.execute("UPDATE creativeflow_credit_account SET balance = -1 WHERE id = %s", (self.account.id,))
        born_rich = self.env["creativeflow.credit.account"].create({"user_ref": "born rich", "balance": 5})
        self.assertEqual(born_rich.balance, 0)

    def test_amounts_are_texts_outside_and_hundredths_inside(self):
        for text, amount in (("0.25", 25), ("5", 500), ("-1.5", -150), ("123456789012.34", 12_345_678_901_234)):
            self.assertEqual(hundredths(text), amount)
        self.assertEqual([decimal_text(amount) for amount in (0, 5, -5, 150)], ["0.00", "0.05", "-0.05", "1.50"])
        for wrong in ("", ".5", "1.", "1.234", "1e3", "١", None, 1.5):
            with self.assertRaises(ValueError, msg=wrong):
                hundredths(wrong)
