"""A click is sent until it is answered, and done once."""

from datetime import timedelta

from odoo import fields
from odoo.exceptions import UserError
from odoo.tests import tagged
from odoo.tools import mute_logger

from ..models.outbox import send, send_without_raising
from .common import KEY, REQUEST, CreativeFlowCase, problem, resource, samples


@tagged("post_install", "-at_install")
class TestOutbox(CreativeFlowCase):
    def send(self, row):
        """Send as the hook after the commit does."""
        self.env.flush_all()
        send(self.env.registry, row.id)
        row.invalidate_recordset()

    def waited(self, row):
        """Let the pause before the next try be over."""
        row.sudo().call_next_at = fields.Datetime.now() - timedelta(seconds=1)

    def started(self, **more):
        row = self.generation(**more)
        row.action_generate()
        self.send(row)
        return row

    def test_a_draft_is_queued_and_sent_after_the_commit(self):
        row = self.generation(
            style_guidance="calm",
            color_scheme="navy, white",
            output_format="Custom",
            custom_width=800,
            custom_height=600,
        )
        row.action_generate()
        self.assertEqual((row.status, row.call_state, self.service.asked), ("QUEUED", "queued", []))
        hooks = [hook for hook in self.env.cr.postcommit._funcs if getattr(hook, "func", None) is send_without_raising]
        self.assertEqual([hook.args for hook in hooks], [(self.env.cr.dbname, row.id)])
        key = row.call_key
        self.send(row)
        method, path, headers, body = self.service.asked[0]
        self.assertEqual((method, path), ("POST", "/api/v1/generation-requests"))
        self.assertEqual((headers["X-Internal-API-Key"], headers["Idempotency-Key"]), (KEY, key))
        self.assertEqual(headers["X-User-ID"], "rich")
        self.assertEqual(
            body,
            {
                "user_id": "rich",
                "input_prompt": "A lighthouse at dawn",
                "output_format": "Custom",
                "custom_dimensions": {"width": 800, "height": 600},
                "style_guidance": "calm",
                "color_scheme": ["navy", "white"],
                "metadata": {"odoo_row": row.row_key},
            },
        )
        self.assertEqual((row.status, row.call_state, row.request_ref), ("PENDING", "sent", REQUEST))

    def test_a_user_without_an_account_has_an_id_all_the_same(self):
        row = self.env["creativeflow.generation"].with_user(self.other).create({"input_prompt": "x"})
        row.action_generate()
        self.assertEqual(row.user_ref, f"odoo-{self.other.id}")

    def test_what_has_no_answer_is_sent_again_with_the_same_key(self):
        self.service.answers = [(503, b"<html>Bad Gateway</html>"), (202, resource())]
        row = self.started()
        self.assertEqual((row.status, row.call_state), ("QUEUED", "queued"))
        self.assertIn("sent again by itself", row.message)
        self.send(row)
        self.assertEqual(len(self.service.asked), 1, "it was sent again before its pause was over")
        self.waited(row)
        self.env["creativeflow.generation"]._cron_work()
        row.invalidate_recordset()
        self.assertEqual((row.status, row.call_state, row.message), ("PENDING", "sent", False))
        first, second = (asked[2]["Idempotency-Key"] for asked in self.service.asked[:2])
        self.assertEqual(first, second)

    def test_refusals_are_final_and_told_in_the_words_of_the_service(self):
        for status, code in ((402, "insufficient_credits"), (403, "plan_required"), (422, "prompt_rejected")):
            errors = [{"pointer": "/input_prompt", "code": "x", "message": "Too long."}] if status == 422 else None
            self.service.answers = [problem(status, code, "Refused", errors=errors)]
            row = self.started()
            self.assertEqual((row.status, row.call_state), ("REFUSED", "refused"))
            self.assertIn(f"Refused. Details of {code}.", row.message)
            self.assertEqual("input_prompt: Too long." in row.message, status == 422)
            self.assertTrue(row.can_generate)

    def test_a_refused_draft_is_sent_anew_with_another_key(self):
        self.service.answers = [problem(402, "insufficient_credits", "Refused"), (202, resource())]
        row = self.started()
        row.action_generate()
        self.send(row)
        self.assertEqual((row.status, row.message), ("PENDING", False))
        self.assertNotEqual(*(asked[2]["Idempotency-Key"] for asked in self.service.asked))

    def test_passing_troubles_are_tried_again(self):
        for status, retryable in ((409, True), (429, True), (500, True), (401, False)):
            self.service.answers = [problem(status, "trouble", "Wait", retryable=retryable)]
            row = self.started()
            self.assertEqual((row.status, row.call_state), ("QUEUED", "queued"), status)
            self.assertGreater(row.call_next_at, fields.Datetime.now())

    def test_the_actions_of_a_request_go_to_its_address(self):
        row = self.started()
        self.service.answers = [(202, resource("AWAITING_SELECTION", 5, samples=samples(self.service.url)))]
        row.action_refresh()
        row.invalidate_recordset()
        self.assertTrue(row.can_select and row.can_regenerate and row.can_cancel)
        self.assertEqual(row.sample_ids.mapped("has_picture"), [True, True, True, True])
        self.assertTrue(row.cover)
        row.desired_resolution = "2K"
        self.service.answers = [
            (202, resource("PENDING", 6, samples=samples(self.service.url), selected_sample_id="sample-2"))
        ]
        row.sample_ids[2].action_pick()
        with self.assertRaises(UserError):
            row.action_regenerate()
        self.send(row)
        _, path, _, body = self.service.asked[-1]
        self.assertEqual(path, f"/api/v1/generation-requests/{REQUEST}/select-sample")
        self.assertEqual(body, {"selected_sample_id": "sample-2", "desired_resolution": "2K", "output_format": "png"})
        self.assertEqual([sample.picked for sample in row.sample_ids], [False, False, True, False])

    def test_a_refused_action_leaves_the_request_as_it_is(self):
        row = self.started()
        self.service.answers = [problem(409, "invalid_state", "The request is in another state")]
        row.action_cancel()
        self.send(row)
        self.assertEqual((row.status, row.call_state), ("PENDING", "refused"))
        self.assertIn("Not possible now", row.message)

    def test_a_start_that_is_still_on_its_way_is_cancelled_when_it_has_arrived(self):
        self.service.answers = [(503, {}), (202, resource()), (200, resource("CANCELLED", 3))]
        row = self.started()
        row.action_cancel()
        self.assertTrue(row.cancel_wanted)
        self.waited(row)
        self.send(row)
        self.assertEqual(row.call_name, "cancel")
        self.send(row)
        self.assertEqual((row.status, row.call_state), ("CANCELLED", "sent"))

    def test_a_retry_is_a_new_row_that_names_the_old_request(self):
        self.service.answers = [(202, resource("FAILED", 4, failure={"message": "Try again."}))]
        row = self.started()
        self.assertEqual(row.message, "Try again.")
        again = self.env["creativeflow.generation"].with_user(self.user).browse(row.action_retry()["res_id"])
        again.input_prompt = "A windmill"
        again.action_generate()
        self.service.answers = [(202, resource(id="01900000-0000-7000-8000-000000000002", retry_of=REQUEST))]
        self.send(again)
        _, path, _, body = self.service.asked[-1]
        self.assertEqual(path, f"/api/v1/generation-requests/{REQUEST}/retry")
        self.assertEqual(body, {"updated_prompt": "A windmill"})
        self.assertEqual((again.status, row.status), ("PENDING", "FAILED"))

    def test_silent_requests_are_asked_for(self):
        row = self.started()
        self.service.answers = [(200, resource("AWAITING_SELECTION", 5, samples=samples(self.service.url, 2)))]
        row.sudo().heard_at = fields.Datetime.now() - timedelta(minutes=5)
        self.env.flush_all()
        self.env["creativeflow.generation"]._cron_work()
        row.invalidate_recordset()
        self.assertEqual(row.status, "AWAITING_SELECTION")
        self.assertEqual(row.sample_ids.mapped("has_picture"), [True, True])

    @mute_logger("odoo.addons.creativeflow_aigen.models.news")
    def test_cron_answer_that_is_not_understood_leaves_other_rows_to_be_asked(self):
        rows = self.started(), self.generation()
        rows[1].sudo().write({"request_ref": REQUEST[:-1] + "2", "status": "PENDING", "user_ref": "rich"})
        rows[0].sudo().heard_at = fields.Datetime.now() - timedelta(minutes=9)
        rows[1].sudo().heard_at = fields.Datetime.now() - timedelta(minutes=5)
        self.env.flush_all()
        broken = {name: value for name, value in resource(version=3).items() if name != "cost"}
        self.service.answers = [(200, broken), (200, resource("COMPLETED", 4, id=rows[1].request_ref))]
        self.env["creativeflow.generation"]._cron_work()
        for row in rows:
            row.invalidate_recordset()
        self.assertEqual([row.status for row in rows], ["PENDING", "COMPLETED"])

    @mute_logger("odoo.addons.creativeflow_aigen.models.news")
    def test_pictures_are_read_from_known_hosts_only(self):
        row = self.started()
        foreign = [{**samples("http://169.254.169.254", 1)[0]}]
        self.service.answers = [(200, resource("AWAITING_SELECTION", 5, samples=foreign))]
        row.action_refresh()
        row.invalidate_recordset()
        self.assertEqual((row.sample_ids.has_picture, row.sample_ids.picture_tries), (False, 1))

    def test_the_timeline_is_a_table_without_foreign_markup(self):
        row = self.started()
        self.service.timeline = [
            {
                "at": "2026-01-01T10:00:00Z",
                "event": "credits_held",
                "status": "PENDING",
                "version": 2,
                "data": {"credits": "0.25", "note": "<script>"},
            }
        ]
        self.service.answers = [(200, resource(version=3))]
        row.action_refresh()
        row.invalidate_recordset()
        self.assertIn("credits held", row.timeline)
        self.assertNotIn("<script>", row.timeline)

    @mute_logger("odoo.addons.creativeflow_aigen.models.outbox")
    def test_an_answer_that_cannot_be_read_holds_up_nobody_else(self):
        self.service.answers = [(202, {"id": "of another kind"}), (202, resource())]
        rows = self.generation(), self.generation()
        for row in rows:
            row.action_generate()
        self.env.flush_all()
        self.env["creativeflow.generation"]._cron_work()
        for row in rows:
            row.invalidate_recordset()
        self.assertEqual(sorted(row.call_state for row in rows), ["queued", "sent"])

    @mute_logger("odoo.addons.creativeflow_aigen.models.outbox")
    def test_the_hook_after_the_commit_never_raises(self):
        send_without_raising("no such database", 1)
        self.assertEqual(self.service.asked, [])

    def test_without_settings_a_click_waits(self):
        self.env["ir.config_parameter"].set_param("creativeflow_aigen.base_url", False)
        row = self.started()
        self.assertEqual(row.call_state, "queued")
        self.assertIn("Settings", row.message)
