"""News are taken from the service alone, and once."""

import json
import time

from odoo.tests import tagged

from ..models.outbox import send
from ..signatures import TOLERANCE_SECONDS, sign, verified
from .common import REQUEST, SECRET, CreativeFlowCase, resource, samples

EXAMPLE = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the example of the standard's reference implementations


@tagged("post_install", "-at_install")
class TestSignatures(CreativeFlowCase):
    def headers(self, *signatures, timestamp="1614265330"):
        return {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(signatures),
        }

    def test_the_example_of_the_standard(self):
        body = b'{"test": 2432232314}'
        signature = sign(EXAMPLE, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
        self.assertEqual(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        now = 1614265330
        self.assertTrue(verified(EXAMPLE, self.headers(signature), body, now=now))
        self.assertTrue(verified(EXAMPLE, self.headers("v1,AAAA", signature), body, now=now))
        self.assertTrue(verified(EXAMPLE, self.headers(signature), body, now=now + TOLERANCE_SECONDS))
        wrong = [
            verified(EXAMPLE, self.headers(signature), body, now=now + TOLERANCE_SECONDS + 1),
            verified(EXAMPLE, self.headers(signature), body, now=now - TOLERANCE_SECONDS - 1),
            verified(EXAMPLE, self.headers(signature), body + b" ", now=now),
            verified(EXAMPLE, self.headers(signature, timestamp="yesterday"), body, now=now),
            verified(EXAMPLE, self.headers(), body, now=now),
            verified(EXAMPLE, {}, body, now=now),
            verified(SECRET, self.headers(signature), body, now=now),
            verified("", self.headers(signature), body, now=now),
            verified("whsec_", self.headers(signature), body, now=now),
            verified("whsec_%", self.headers(signature), body, now=now),
        ]
        self.assertEqual(set(wrong), {False})


@tagged("post_install", "-at_install")
class TestWebhook(CreativeFlowCase):
    def setUp(self):
        super().setUp()
        self.row = self.generation()
        self.row.action_generate()
        self.env.flush_all()

    def post(self, told, secret=SECRET, kind="generation.samples_ready"):
        body = told if isinstance(told, bytes) else json.dumps({"type": kind, "timestamp": "x", "data": told}).encode()
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": "msg_1",
            "webhook-timestamp": timestamp,
            "webhook-signature": sign(secret, "msg_1", timestamp, body),
        }
        answer = self.url_open("/creativeflow_aigen/webhook", data=body, headers=headers)
        self.row.invalidate_recordset()
        return answer.status_code, answer.json()["outcome"]

    def sent(self):
        send(self.env.registry, self.row.id)
        self.row.invalidate_recordset()

    def test_news_are_applied_once_and_older_ones_ignored(self):
        self.sent()
        news = resource("AWAITING_SELECTION", 5, samples=samples(self.service.url))
        self.assertEqual(self.post(news), (200, "applied"))
        self.assertEqual((self.row.status, len(self.row.sample_ids)), ("AWAITING_SELECTION", 4))
        self.assertEqual(self.post(news), (200, "ignored"))
        self.assertEqual(self.post(resource("PENDING", 4)), (200, "ignored"))
        self.assertEqual(self.row.status, "AWAITING_SELECTION")

    def test_news_may_come_before_the_answer_to_the_call_that_started_the_request(self):
        news = resource("AWAITING_SELECTION", 5, metadata={"odoo_row": self.row.row_key})
        self.assertEqual(self.post(news), (200, "applied"))
        self.assertEqual((self.row.request_ref, self.row.call_state), (REQUEST, "sent"))
        self.sent()
        self.assertEqual((self.row.status, self.row.version, self.service.asked), ("AWAITING_SELECTION", 5, []))

    def test_a_failure_is_told_in_its_words(self):
        self.sent()
        self.post(resource("FAILED", 5, failure={"message": "The model is busy."}), kind="generation.failed")
        self.assertEqual((self.row.status, self.row.message), ("FAILED", "The model is busy."))
        self.assertTrue(self.row.can_retry)

    def test_a_final_is_fetched_and_shown(self):
        self.sent()
        final = {"url": f"{self.service.url}/pictures/final.png", "resolution": "1080x1080", "format": "png"}
        self.post(resource("COMPLETED", 9, final_asset=final), kind="generation.completed")
        self.env["creativeflow.generation"]._cron_work()
        self.row.invalidate_recordset()
        self.assertTrue(self.row.has_final and self.row.final_picture and self.row.cover)

    def test_a_new_round_replaces_the_samples(self):
        self.sent()
        self.post(resource("AWAITING_SELECTION", 5, samples=samples(self.service.url)))
        fresh = [{**sample, "asset_id": f"again-{sample['asset_id']}"} for sample in samples(self.service.url, 3)]
        self.post(resource("AWAITING_SELECTION", 9, round=2, samples=fresh))
        self.assertEqual(len(self.row.sample_ids), 3)

    def test_what_is_not_ours_is_acknowledged_and_ignored(self):
        self.assertEqual(self.post(resource(id="01900000-0000-7000-8000-0000000000ff")), (200, "ignored"))
        self.assertEqual(self.post(resource(), kind="something.else"), (200, "ignored"))

    def test_a_bad_signature_is_refused(self):
        self.assertEqual(self.post(resource(), secret="whsec_b3RoZXI="), (401, "bad_signature"))
        self.assertEqual(self.row.status, "QUEUED")

    def test_webhook_with_a_request_id_that_is_no_uuid_is_refused(self):
        for wrong in (f"{REQUEST}/cancel#", "..", "", 1, None):
            news = resource(id=wrong, metadata={"odoo_row": self.row.row_key})
            self.assertEqual(self.post(news), (422, "not_understood"))
        self.assertEqual((self.row.request_ref, self.row.call_state), (False, "queued"))

    def test_webhook_with_a_missing_or_wrong_field_is_refused_and_writes_nothing(self):
        whole = resource("AWAITING_SELECTION", 5, samples=samples(self.service.url))
        whole["metadata"] = {"odoo_row": self.row.row_key}
        for name in ("cost", "status", "version", "round", "actions", "samples"):
            news = {field: value for field, value in whole.items() if field != name}
            self.assertEqual(self.post(news), (422, "not_understood"), name)
        for wrong in (
            {"cost": None},
            {"cost": {"total": 0.25}},
            {"status": "QUEUED"},
            {"status": "NEW"},
            {"status": []},
            {"version": "5"},
            {"version": True},
            {"version": 2**31},
            {"round": -1},
            {"actions": [1]},
            {"samples": [1]},
            {"samples": [{"asset_id": 1}]},
            {"samples": [{"asset_id": "a", "index": "1"}]},
            {"metadata": [1]},
            {"metadata": {"odoo_row": [self.row.row_key]}},
            {"retry_of": 1},
            {"failure": "x"},
            {"failure": {"message": "\0"}},
            {"final_asset": {"url": 1}},
            {"queue_position": 1.5},
        ):
            self.assertEqual(self.post(whole | wrong), (422, "not_understood"), wrong)
        self.assertEqual((self.row.status, self.row.request_ref, self.row.sample_ids.ids), ("QUEUED", False, []))
        self.assertEqual(self.post(whole), (200, "applied"))

    def test_a_signed_body_that_cannot_be_news_is_refused(self):
        for body in (
            b"no json",
            b"[]",
            b'{"type": "generation.failed"}',
            b'{"type": 1, "data": {"id": 1}}',
            b"[" * 100_000,
        ):
            self.assertEqual(self.post(body), (422, "not_understood"))
