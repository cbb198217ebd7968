"""No call is sent for an account or a request that does not belong to the owner of the row."""

from odoo.exceptions import UserError, ValidationError
from odoo.tests import tagged

from ..models.outbox import send
from ..service import REQUESTS, path_below, request_path
from .common import REQUEST, CreativeFlowCase, resource

BRIEF = {"name": "Dusk", "input_prompt": "A lighthouse at dusk"}


@tagged("post_install", "-at_install")
class TestPlantedRows(CreativeFlowCase):
    """Rows with values that a user wrote before an upgrade, and rows whose owner has changed."""

    def planted_row(self, **values):
        row = self.env["creativeflow.generation"].with_user(self.other).create(BRIEF)
        row.sudo().write({"user_ref": "rich", "request_ref": REQUEST, "status": "AWAITING_SELECTION"})
        self.env.flush_all()
        for name, value in values.items():
            self.cr.execute(f"UPDATE creativeflow_generation SET {name} = %s WHERE id = %s", (value, row.id))
        row.invalidate_recordset()
        return row

    def send(self, row):
        self.env.flush_all()
        send(self.env.registry, row.id)
        row.invalidate_recordset()

    def test_send_another_users_account_is_refused(self):
        row = self.planted_row()
        for act in (row.action_regenerate, row.action_cancel):
            act()
            self.send(row)
            self.assertEqual((row.call_state, self.service.asked), ("refused", []))
            self.assertIn("another credit account", row.message)
        self.assertEqual(self.balance(), 100)

    def test_send_queued_create_for_another_user_is_refused(self):
        row = self.planted_row(request_ref=None, status="QUEUED", call_state="queued", call_name="create")
        self.env["creativeflow.generation"]._cron_work()
        row.invalidate_recordset()
        self.assertEqual((row.status, row.call_state, self.service.asked), ("REFUSED", "refused", []))

    def test_send_after_the_owner_got_an_account_goes_on_as_before(self):
        row = self.env["creativeflow.generation"].with_user(self.other).create(BRIEF)
        row.action_generate()
        self.env["creativeflow.credit.account"].create({"user_ref": "late", "partner_id": self.other.partner_id.id})
        self.send(row)
        self.assertEqual(row.call_state, "sent")
        self.assertEqual(self.service.asked[0][2]["X-User-ID"], f"odoo-{self.other.id}")

    def test_request_ref_that_is_no_uuid_is_refused(self):
        row = self.planted_row()
        for ref in (f"{REQUEST}/cancel#", "../accounts", f"{REQUEST}\n", "1"):
            with self.assertRaises(ValidationError, msg=ref):
                row.sudo().request_ref = ref

    def test_calls_with_a_request_ref_that_is_no_uuid_are_not_sent(self):
        row = self.planted_row(request_ref=f"{REQUEST}/cancel#", user_ref=f"odoo-{self.other.id}")
        row.action_cancel()
        self.send(row)
        row.action_refresh()
        self.env["creativeflow.generation"]._cron_work()
        row.invalidate_recordset()
        self.assertEqual((row.call_state, self.service.asked), ("refused", []))
        self.assertIn("does not know this request", row.message)
        self.assertTrue(row.heard_at, "the cron would ask for this row first every time")

    def test_retry_of_a_deleted_creative_is_refused(self):
        old = self.generation()
        old.sudo().write({"request_ref": REQUEST, "status": "FAILED", "possible_actions": "retry"})
        again = old.browse(old.action_retry()["res_id"])
        again.action_generate()
        old.unlink()
        self.send(again)
        self.assertEqual((again.status, again.call_state, self.service.asked), ("REFUSED", "refused", []))

    def test_write_owner_of_a_creative_that_is_being_made_is_refused(self):
        row = self.generation()
        handed = row.with_user(self.manager)
        handed.user_id = self.other
        handed.user_id = self.user
        row.action_generate()
        with self.assertRaises(UserError):
            handed.user_id = self.other
        self.service.answers = [(202, resource("COMPLETED"))]
        self.send(row)
        handed.user_id = self.other
        self.assertEqual(row.sudo().user_id, self.other)

    def test_path_below_quotes_every_part(self):
        self.assertEqual(path_below("/r", "a/../b?c#d e", 5), "/r/a%2F..%2Fb%3Fc%23d%20e/5")
        for wrong in ("", ".", ".."):
            with self.assertRaises(ValueError, msg=wrong):
                path_below("/r", wrong)
        self.assertEqual(request_path(REQUEST, "select-sample"), f"{REQUESTS}/{REQUEST}/select-sample")
        for wrong in (False, None, "", "1", f"{REQUEST}/", f"x{REQUEST}", f"{REQUEST}\n"):
            with self.assertRaises(ValueError, msg=wrong):
                request_path(wrong)
