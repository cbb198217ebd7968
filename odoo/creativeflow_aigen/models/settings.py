"""Where the generation service is, and the two buttons that prove it."""

import base64
import secrets

from odoo import api, fields, models
from odoo.exceptions import UserError

from ..service import API, NotReachedError, path_below
from .outbox import PARAMETER

WEBHOOK_PATH = "/creativeflow_aigen/webhook"
ENDPOINTS = f"{API}/webhook-endpoints"


class Settings(models.TransientModel):
    """The CreativeFlow part of the settings; kept as system parameters, which only administrators can read."""

    _inherit = "res.config.settings"

    creativeflow_base_url = fields.Char("Address of the service", config_parameter=f"{PARAMETER}base_url")
    creativeflow_api_key = fields.Char("API key", config_parameter=f"{PARAMETER}api_key")
    creativeflow_webhook_secret = fields.Char("Webhook secret", config_parameter=f"{PARAMETER}webhook_secret")
    creativeflow_public_url = fields.Char(
        "Public address of this Odoo",
        config_parameter=f"{PARAMETER}public_url",
        help="As the service reaches it; empty for the address under which Odoo knows itself.",
    )
    creativeflow_picture_hosts = fields.Char(
        "Hosts of pictures",
        config_parameter=f"{PARAMETER}picture_hosts",
        help="Hosts besides the service's own from which pictures are read, separated by commas.",
    )

    @api.model
    def default_get(self, fields):
        """Read our parameters for administrators only: Odoo answers this method to every user, with `sudo()`."""
        if not self.has_access("create"):
            fields = [name for name in fields if not name.startswith("creativeflow_")]
        return super().default_get(fields)

    def action_creativeflow_test(self):
        """Save, and ask the service whether it is ready."""
        self.set_values()
        try:
            answer = self._creativeflow_service().call("GET", "/ready")
        except NotReachedError as error:
            raise UserError(self.env._("The service does not answer (%s). Check the address.", error)) from error
        if not answer.ok:
            raise UserError(self.env._("The service answers but is not ready: %s", answer.sentence()))
        return self._creativeflow_say(self.env._("The service is ready."))

    def action_creativeflow_connect(self):
        """Save, have the service send its news here, and keep the secret they are signed with.

        Pressed again it finds its registration, agrees on the secret anew and enables it, should it be disabled.
        """
        self.set_values()
        parameters = self.env["ir.config_parameter"].sudo()
        public_url = self.creativeflow_public_url or parameters.get_param("web.base.url")
        url = f"{public_url.rstrip('/')}{WEBHOOK_PATH}"
        secret = self.creativeflow_webhook_secret or f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
        try:
            answer = self._creativeflow_register(url, secret)
        except NotReachedError as error:
            raise UserError(self.env._("The service does not answer (%s). Check the address.", error)) from error
        if not answer.ok:
            raise UserError(self.env._("The service did not take the registration: %s", answer.sentence()))
        parameters.set_param(f"{PARAMETER}webhook_secret", answer.body.get("secret") or secret)
        return self._creativeflow_say(self.env._("Connected: news come to %s.", url))

    def _creativeflow_register(self, url, secret):
        """Register the address; where it is registered already, give that registration this secret and enable it."""
        call = self._creativeflow_service().call
        answer = call("POST", ENDPOINTS, body={"url": url, "secret": secret})
        if answer.body.get("code") != "webhook_endpoint_exists":
            return answer
        listed = call("GET", ENDPOINTS)
        target = next((target for target in listed.body.get("items", []) if target.get("url") == url), None)
        if target is None:
            return answer
        renewed = call("POST", path_below(ENDPOINTS, target["id"], "rotate-secret"), body={"secret": secret})
        enabled = call("POST", path_below(ENDPOINTS, target["id"], "enable"))
        return renewed if not renewed.ok or enabled.ok else enabled

    def _creativeflow_service(self):
        service = self.env["creativeflow.generation"]._service()
        if service is None:
            raise UserError(self.env._("Fill in the address and the API key first."))
        return service

    def _creativeflow_say(self, message):
        return {
            "type": "ir.actions.client",
            "tag": "display_notification",
            "params": {
                "type": "success",
                "message": message,
                "next": {"type": "ir.actions.client", "tag": "soft_reload"},
            },
        }
