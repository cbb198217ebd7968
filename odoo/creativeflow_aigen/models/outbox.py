"""Calls to the generation service: written with the row, sent after the commit, sent again until they are answered."""

import logging
from datetime import timedelta
from functools import partial
from uuid import uuid4

from odoo import api, fields, models
from odoo.exceptions import UserError
from odoo.modules.registry import Registry

from ..cursors import own_env
from ..service import REQUESTS, NotReachedError, Service, is_request_id, request_path

_logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
PAUSE_FIRST, PAUSE_MAX = timedelta(seconds=30), timedelta(hours=1)
AT_ONCE = 20
PARAMETER = "creativeflow_aigen."


class GenerationOutbox(models.Model):
    """The row is the outbox. One call is open at a time.

    Its `call_key` goes along as Idempotency-Key: however often a call is sent, it is done once. No cursor is held
    while an answer is waited for.
    """

    _inherit = "creativeflow.generation"

    def _order_call(self, name, body):
        """Write one call, to be sent when the transaction is committed.

        Raises:
            UserError: another call is still on its way.
        """
        self.ensure_one()
        self.check_access("write")
        if self.call_state == "queued":
            raise UserError(self.env._("The last click is still on its way to the service. Wait a moment."))
        self.sudo().write(
            {
                "call_state": "queued",
                "call_name": name,
                "call_body": body,
                "call_key": str(uuid4()),
                "call_tries": 0,
                "call_next_at": False,
                "message": False,
                "cancel_wanted": False,
            }
        )
        self.env.cr.postcommit.add(partial(send_without_raising, self.env.cr.dbname, self.id))
        return True

    @api.model
    def _send_due(self):
        """Send what is still queued and due; for the cron."""
        due = self.search(
            [
                ("call_state", "=", "queued"),
                "|",
                ("call_next_at", "=", False),
                ("call_next_at", "<=", fields.Datetime.now()),
            ],
            limit=AT_ONCE,
            order="call_next_at",
        )
        for row in due:
            send_without_raising(self.env.cr.dbname, row.id)

    def _lease_call(self):
        """The open call if it is due, kept from other processes for a while; else None."""
        self._lock()
        if self.call_state != "queued" or (self.call_next_at and self.call_next_at > fields.Datetime.now()):
            return None
        service = self._service()
        if service is None:
            self._send_later(self.env._("The generation service is not set up yet: see Settings, CreativeFlow."))
            return None
        if self.user_ref not in {self._payer(), self._payer_without_account()}:
            self._refuse_call(
                self.env._("This creative is paid by another credit account than its owner's. Make a new creative.")
            )
            return None
        of = self.retry_of_id if self.call_name == "retry" else self
        if self.call_name != "create" and not is_request_id(of.request_ref):
            self._refuse_call(self._unknown_request())
            return None
        self.write({"call_tries": self.call_tries + 1, "call_next_at": fields.Datetime.now() + LEASE})
        path = REQUESTS if self.call_name == "create" else request_path(of.request_ref, self.call_name)
        language = (self.user_id.lang or "en_US").replace("_", "-")
        return service, {
            "path": path,
            "key": self.call_key,
            "user_ref": self.user_ref,
            "body": self.call_body or None,
            "language": language,
        }

    def _take_answer(self, key, answer):
        """Write what the service said, or that it said nothing (None), where this call is still the open one.

        The webhook may have been faster: then the call counts as sent already, and the older version changes nothing.
        """
        self._lock()
        if self.call_key != key:
            return
        if answer is not None and answer.ok:
            self.write({"call_state": "sent", "call_next_at": False})
            self._take_resource(answer.body)
            if self.cancel_wanted and self.can_cancel:
                self._order_call("cancel", None)
        elif self.call_state != "queued":
            return
        elif answer is None:
            self._send_later(self.env._("The generation service does not answer. This is sent again by itself."))
        elif answer.final:
            self._refuse_call(answer.sentence())
        else:
            self._send_later(answer.sentence(), answer.retry_after)

    def _unknown_request(self):
        return self.env._("The service does not know this request. Make a new creative.")

    def _refuse_call(self, message):
        after = {"status": "REFUSED"} if self.status == "QUEUED" else {"heard_at": False}
        self.write({"call_state": "refused", "call_next_at": False, "message": message, **after})

    def _send_later(self, message, seconds=None):
        pause = timedelta(seconds=seconds) if seconds else PAUSE_FIRST * 2 ** min(self.call_tries, 8)
        self.write({"message": message, "call_next_at": fields.Datetime.now() + min(pause, PAUSE_MAX)})

    def _lock(self):
        """Keep other writers of the row away until the end of the transaction, and read it anew."""
        self.env.cr.execute("SELECT id FROM creativeflow_generation WHERE id = ANY(%s) FOR UPDATE", (self.ids,))
        self.invalidate_recordset()

    @api.model
    def _service(self):
        """The service as the settings name it, or None; nobody but this module sees its key."""
        parameter = self.env["ir.config_parameter"].sudo().get_param
        base_url, api_key = parameter(f"{PARAMETER}base_url"), parameter(f"{PARAMETER}api_key")
        if not base_url or not api_key:
            return None
        hosts = (parameter(f"{PARAMETER}picture_hosts") or "").split(",")
        return Service(base_url, api_key, frozenset(host.strip().lower() for host in hosts if host.strip()))


def send(registry, row_id):
    """Make the open call of a row once, unless it is not due or another process is at it; write what came of it."""
    with own_env(registry) as env:
        leased = row_in(env, row_id)._lease_call()
    if leased is None:
        return
    service, call = leased
    try:
        answer = service.call("POST", **call)
    except NotReachedError as error:
        _logger.warning("generation service not reached: %s", error)
        answer = None
    with own_env(registry) as env:
        row_in(env, row_id)._take_answer(call["key"], answer)


def row_in(env, row_id):
    """A generation in another transaction, speaking its owner's language; empty where it is gone."""
    row = env["creativeflow.generation"].browse(row_id).exists()
    return row.with_context(lang=row.user_id.lang or "en_US")


def send_without_raising(dbname, row_id):
    """Send for those who cannot help it: a user whose click is committed, and the cron, which has more rows to send.

    What goes wrong is logged, and the row stays queued.
    """
    try:
        send(Registry(dbname), row_id)
    except Exception:
        _logger.exception("could not send generation %s; it is tried again", row_id)
