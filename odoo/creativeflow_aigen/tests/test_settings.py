"""The two buttons of the settings."""

from odoo.exceptions import UserError
from odoo.tests import tagged

from ..signatures import sign
from .common import KEY, CreativeFlowCase, problem


@tagged("post_install", "-at_install")
class TestSettings(CreativeFlowCase):
    def settings(self, **more):
        return self.env["res.config.settings"].create(
            {"creativeflow_base_url": self.service.url, "creativeflow_api_key": KEY} | more
        )

    def parameter(self, name):
        return self.env["ir.config_parameter"].get_param(f"creativeflow_aigen.{name}")

    def test_connect_registers_the_webhook_and_keeps_the_secret_that_is_answered(self):
        self.service.answers = [(201, {"id": "1", "secret": "whsec_YW5zd2VyZWQ=", "state": "active"})]
        self.settings(
            creativeflow_public_url="https://odoo.example/", creativeflow_webhook_secret=""
        ).action_creativeflow_connect()
        method, path, headers, body = self.service.asked[-1]
        self.assertEqual((method, path, headers["X-Internal-API-Key"]), ("POST", "/api/v1/webhook-endpoints", KEY))
        self.assertEqual(body["url"], "https://odoo.example/creativeflow_aigen/webhook")
        self.assertTrue(sign(body["secret"], "id", "1", b""), "a secret of our own is offered")
        self.assertEqual(self.parameter("webhook_secret"), "whsec_YW5zd2VyZWQ=")

    def test_connecting_again_offers_the_same_secret(self):
        self.service.answers = [(201, {"id": "1"})]
        self.settings(creativeflow_webhook_secret="whsec_YWdhaW4=").action_creativeflow_connect()
        self.assertEqual(self.service.asked[-1][3]["secret"], "whsec_YWdhaW4=")
        self.assertEqual(self.parameter("webhook_secret"), "whsec_YWdhaW4=")

    def test_connecting_again_finds_its_registration_agrees_on_the_secret_and_enables_it(self):
        url = "https://odoo.example/creativeflow_aigen/webhook"
        self.service.answers = [
            problem(409, "webhook_endpoint_exists", "This address is registered already"),
            (200, {"items": [{"id": "7", "url": "https://else.example/"}, {"id": "8", "url": url}]}),
            (200, {"id": "8", "secret": "whsec_YWdhaW4="}),
            (200, {"id": "8", "state": "enabled"}),
        ]
        self.settings(
            creativeflow_public_url="https://odoo.example", creativeflow_webhook_secret="whsec_YWdhaW4="
        ).action_creativeflow_connect()
        self.assertEqual(
            [asked[:2] for asked in self.service.asked[-3:]],
            [
                ("GET", "/api/v1/webhook-endpoints"),
                ("POST", "/api/v1/webhook-endpoints/8/rotate-secret"),
                ("POST", "/api/v1/webhook-endpoints/8/enable"),
            ],
        )
        self.assertEqual(self.parameter("webhook_secret"), "whsec_YWdhaW4=")

    def test_default_get_tells_the_parameters_to_administrators_alone(self):
        names = [name for name in self.env["res.config.settings"]._fields if name.startswith("creativeflow_")]
        settings = self.env["res.config.settings"]
        for user in (self.user, self.manager, self.bot):
            found = settings.with_user(user).default_get([*names, "company_id"])
            self.assertFalse(found.keys() & set(names), user.login)
            self.assertTrue(found["company_id"])
        self.assertGreaterEqual(
            settings.with_user(self.env.ref("base.user_admin")).default_get(names).keys(), set(names)
        )

    def test_a_refused_registration_is_told(self):
        self.service.answers = [problem(422, "invalid_request", "The request is not valid")]
        with self.assertRaisesRegex(UserError, "The request is not valid"):
            self.settings().action_creativeflow_connect()

    def test_the_test_says_whether_the_service_is_ready(self):
        self.service.answers = [(200, {"status": "ready"})]
        self.assertEqual(self.settings().action_creativeflow_test()["params"]["type"], "success")
        self.assertEqual(self.service.asked[-1][:2], ("GET", "/ready"))
        self.service.answers = [(503, {"status": "not ready"})]
        with self.assertRaises(UserError):
            self.settings().action_creativeflow_test()
        with self.assertRaises(UserError):
            self.settings(creativeflow_base_url="http://127.0.0.1:9").action_creativeflow_test()
        with self.assertRaises(UserError):
            self.settings(creativeflow_api_key=False).action_creativeflow_test()
