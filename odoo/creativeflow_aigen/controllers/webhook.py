"""The door for the generation service: one signed POST per news about a request."""

import json
import time

from odoo import SUPERUSER_ID, http
from odoo.http import request

from .. import signatures
from ..models.resource import NotUnderstoodError

BODY_BYTES_MAX = 1_048_576


class Webhook(http.Controller):
    """Taken once, however often it is delivered: a version that is not newer changes nothing."""

    @http.route(
        "/creativeflow_aigen/webhook",
        type="http",
        auth="none",
        methods=["POST"],
        csrf=False,
        save_session=False,
        readonly=False,
    )
    def receive(self):
        """Verify, apply, acknowledge. 401 for a bad signature, 413 and 422 for a body that cannot be news."""
        length = request.httprequest.content_length
        if length is None or length > BODY_BYTES_MAX:
            return self._answer(413, "too_large")
        body = request.httprequest.get_data()
        env = request.env(user=SUPERUSER_ID, context={})
        secret = env["ir.config_parameter"].get_param("creativeflow_aigen.webhook_secret")
        if not signatures.verified(secret, request.httprequest.headers, body, now=time.time()):
            return self._answer(401, "bad_signature")
        try:
            news = json.loads(body)
            resource, ours = news["data"], news["type"].startswith("generation.")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return self._answer(422, "not_understood")
        if not ours:
            return self._answer(200, "ignored")
        try:
            return self._answer(200, env["creativeflow.generation"]._take_news(resource))
        except NotUnderstoodError:
            return self._answer(422, "not_understood")

    def _answer(self, status, outcome):
        return request.make_json_response({"outcome": outcome}, status=status)
