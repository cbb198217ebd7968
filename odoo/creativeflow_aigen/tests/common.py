"""A generation service of the tests' own, on a real socket; and requests as it tells them."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

from odoo.tests import HttpCase, new_test_user
from PIL import Image

SECRET = "whsec_dGhlIHNlY3JldCBvZiB0aGUgdGVzdHM="
KEY = "the-key-of-the-tests"
REQUEST = "01900000-0000-7000-8000-000000000001"
ACTIONS = {
    "PENDING": ["cancel"],
    "AWAITING_SELECTION": ["select-sample", "regenerate-samples", "cancel"],
    "FAILED": ["retry"],
}


def resource(status="PENDING", version=2, **more):
    """A request as the service tells it."""
    return {
        "id": REQUEST,
        "status": status,
        "version": version,
        "round": 1,
        "actions": ACTIONS.get(status, []),
        "samples": [],
        "selected_sample_id": None,
        "final_asset": None,
        "failure": None,
        "queue_position": None,
        "retry_of": None,
        "metadata": {},
        "cost": {"samples": "0.25", "final": "0.00", "total": "0.25", "held": "0.25"},
        **more,
    }


def samples(base_url, count=4):
    """Samples whose pictures lie at the service of the tests."""
    return [
        {
            "asset_id": f"sample-{n}",
            "index": n,
            "url": f"{base_url}/pictures/{n}.png",
            "resolution": "512x512",
            "format": "png",
        }
        for n in range(count)
    ]


def problem(status, code, title, *, retryable=False, errors=None):
    """A problem document."""
    return status, {
        "title": title,
        "detail": f"Details of {code}.",
        "code": code,
        "retryable": retryable,
        "errors": errors,
    }


class FakeService:
    """Answers what it is told to, in order, the last one for ever; keeps what it was asked."""

    def __init__(self):
        self.asked, self.answers, self.timeline = [], [(202, resource())], []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                service._answer(self, None)

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                service._answer(self, json.loads(body) if body else None)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler, body):
        self.asked.append((handler.command, handler.path, dict(handler.headers), body))
        if handler.path.startswith("/pictures/"):
            status, content, kind = 200, picture(), "image/png"
        elif handler.path.endswith("/events"):
            status, content, kind = 200, json.dumps({"items": self.timeline}).encode(), "application/json"
        else:
            status, told = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            content = told if isinstance(told, bytes) else json.dumps(told).encode()
            kind = "application/json"
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


def picture():
    """A small PNG."""
    target = BytesIO()
    Image.new("RGB", (64, 64), (40, 90, 160)).save(target, "PNG")
    return target.getvalue()


class CreativeFlowCase(HttpCase):
    """A user, a manager and a bot, an account of the user, and settings that name the service of the tests."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.user = new_test_user(cls.env, "cf_user", "creativeflow_aigen.group_user")
        cls.other = new_test_user(cls.env, "cf_other", "creativeflow_aigen.group_user")
        cls.manager = new_test_user(cls.env, "cf_manager", "creativeflow_aigen.group_manager")
        cls.bot = new_test_user(cls.env, "cf_bot", "base.group_user,creativeflow_aigen.group_credits_bot")
        cls.account = cls.env["creativeflow.credit.account"].create(
            {"user_ref": "rich", "partner_id": cls.user.partner_id.id, "plan": "payg"}
        )
        cls.account._grant(100, "first", "for the tests")

    def setUp(self):
        super().setUp()
        self.service = FakeService()
        self.addCleanup(self.service.close)
        parameters = self.env["ir.config_parameter"]
        parameters.set_param("creativeflow_aigen.base_url", self.service.url)
        parameters.set_param("creativeflow_aigen.api_key", KEY)
        parameters.set_param("creativeflow_aigen.webhook_secret", SECRET)
        self.env.flush_all()

    def balance(self):
        self.account.invalidate_recordset()
        return self.account.balance

    def generation(self, **more):
        """A draft of the user's."""
        return (
            self.env["creativeflow.generation"]
            .with_user(self.user)
            .create({"name": "Dawn", "input_prompt": "A lighthouse at dawn", **more})
        )
