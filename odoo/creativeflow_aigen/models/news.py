"""What the service says of a request, by answer, webhook or when asked; and its pictures."""

import base64
import logging
from datetime import timedelta

from markupsafe import Markup
from odoo import api, fields, models

from ..cursors import own_env
from ..service import NotReachedError, PictureRefusedError, is_request_id, request_path
from .generation import ENDED, OUR_STATUSES, STATUSES
from .outbox import AT_ONCE, row_in
from .resource import NotUnderstoodError, read_request

_logger = logging.getLogger(__name__)

SILENCE = timedelta(minutes=2)
"""After this long without news of a request that has not ended, it is asked for."""
PICTURE_TRIES_MAX = 6


class GenerationNews(models.Model):
    """Three parties bring news: answers, the webhook, and the cron where both were lost. The newest version stays."""

    _inherit = "creativeflow.generation"

    @api.model
    def _take_news(self, resource):
        """Apply a request that a webhook brought, after its signature was checked; says `applied` or `ignored`.

        Raises:
            NotUnderstoodError: it is no request; nothing is written.
        """
        request = read_request(resource)
        generation = self._of(request)
        if not generation:
            return "ignored"
        generation._lock()
        return "applied" if generation._take_request(request) else "ignored"

    @api.model
    def _of(self, request):
        """The row of a request. A webhook may be faster than the answer to the call that started the request."""
        if known := self.search([("request_ref", "=", request["id"])], limit=1):
            return known
        unsent = [("request_ref", "=", False), ("call_state", "=", "queued")]
        if retry_of := request["retry_of"]:
            return self.search([*unsent, ("retry_of_id.request_ref", "=", retry_of)], limit=1)
        row_key = request["row_key"]
        return self.search([*unsent, ("row_key", "=", row_key)], limit=1) if row_key else self.browse()

    def _take_resource(self, resource):
        """Write a request as `_take_request` does, read from the JSON of an answer.

        Raises:
            NotUnderstoodError: it is no request; nothing is written.
        """
        return self._take_request(read_request(resource))

    def _take_resource_or_log(self, resource):
        """Write a request where it can be read, and else log why: the cron has other rows to ask for."""
        try:
            self._take_resource(resource)
        except NotUnderstoodError as error:
            _logger.warning("the answer about generation %s is not understood: %s", self.id, error)

    def _take_request(self, request):
        """Write a request as it stands and have its pictures fetched; returns whether it was newer than the row."""
        values = request["values"]
        if self.request_ref and (self.request_ref != request["id"] or values["version"] <= self.version):
            return False
        started = {} if self.request_ref else {"call_state": "sent", "call_next_at": False}
        self.write({**values, "request_ref": request["id"], "heard_at": fields.Datetime.now(), **started})
        self._take_samples(request["samples"])
        if self._missing_pictures():
            self.env.ref("creativeflow_aigen.cron_work").sudo()._trigger()
        return True

    def _take_samples(self, assets):
        wanted = {asset["asset_ref"] for asset in assets}
        gone = self.sample_ids.filtered(lambda sample: sample.asset_ref not in wanted)
        if gone:
            gone.unlink()
            self.cover = False
        known = set(self.sample_ids.mapped("asset_ref"))
        self.env["creativeflow.generation.sample"].create(
            [{**asset, "generation_id": self.id} for asset in assets if asset["asset_ref"] not in known]
        )

    def _follow(self):
        """Ask how the request stands and write it, in a transaction of its own; returns whether there was an answer."""
        if not is_request_id(self.request_ref):
            self._write_unknown_request()
            return True
        answer = self._get()
        if answer is None:
            return False
        with own_env(self.env.registry) as env:
            row = row_in(env, self.id)
            row._lock()
            row.heard_at = fields.Datetime.now()
            if answer.ok:
                row._take_resource_or_log(answer.body)
            else:
                row.message = answer.sentence()
        self.env.invalidate_all()
        return True

    def _write_unknown_request(self):
        """Write that there is nothing to ask for, so that the cron does not stop at this row every time."""
        with own_env(self.env.registry) as env:
            row = row_in(env, self.id)
            row.write({"heard_at": fields.Datetime.now(), "message": row._unknown_request()})
        self.env.invalidate_all()

    def _fetch_timeline(self):
        """Write what happened to the request as a table, in a transaction of its own."""
        answer = self._get("events")
        if answer is None or not answer.ok:
            return
        line = Markup("<tr><td>%s</td><td>%s</td><td>%s</td><td>%s</td></tr>")
        labels = dict(STATUSES)
        lines = [
            line
            % (
                entry["at"][:19].replace("T", " "),
                entry["event"].replace("_", " "),
                labels.get(entry["status"], ""),
                _details(entry["data"]),
            )
            for entry in answer.body["items"]
        ]
        head = Markup("<tr><th>%s</th><th>%s</th><th>%s</th><th>%s</th></tr>") % (
            self.env._("At (UTC)"),
            self.env._("What happened"),
            self.env._("Then"),
            self.env._("Details"),
        )
        table = Markup('<table class="table table-sm"><thead>%s</thead><tbody>%s</tbody></table>')
        with own_env(self.env.registry) as env:
            row_in(env, self.id).timeline = table % (head, Markup().join(lines))
        self.invalidate_recordset()

    def _get(self, *parts):
        """An answer about this request, or None where none came."""
        service = self._service()
        if service is None or not is_request_id(self.request_ref):
            return None
        try:
            return service.call("GET", request_path(self.request_ref, *parts), user_ref=self.user_ref)
        except NotReachedError as error:
            _logger.info("generation service not reached: %s", error)
            return None

    def _missing_pictures(self):
        """Model, id, address and names of the picture's and tries' fields, for each picture that is worth a try."""
        samples = [
            (sample._name, sample.id, sample.url, "picture", "picture_tries")
            for sample in self.sample_ids
            if not sample.has_picture and sample.picture_tries < PICTURE_TRIES_MAX
        ]
        finals = [
            (row._name, row.id, row.final_url, "final_picture", "final_tries")
            for row in self
            if row.final_url and not row.has_final and row.final_tries < PICTURE_TRIES_MAX
        ]
        return samples + finals

    def _fetch_pictures(self):
        """Fetch what is missing, each in a transaction of its own; nothing is locked while a picture is read.

        What is missing is looked up in a new transaction too: the caller's does not see samples that came since.
        """
        service = self._service()
        with own_env(self.env.registry) as env:
            missing = env[self._name].browse(self.ids).exists()._missing_pictures() if service else []
        for model, record_id, url, picture, tries in missing:
            found = False
            try:
                found = base64.b64encode(service.picture(url))
            except (NotReachedError, PictureRefusedError) as error:
                _logger.warning("no picture for %s %s: %s", model, record_id, error)
            with own_env(self.env.registry) as env:
                record = env[model].browse(record_id).exists()
                if record:
                    record.write({tries: record[tries] + 1, **({picture: found} if found else {})})
                    record._show(found)
        self.env.invalidate_all()

    def _show(self, picture):
        """The final is what the request is known by; a sample only until there is one."""
        if picture:
            self.write({"cover": picture, "has_final": True})

    @api.model
    def _cron_work(self):
        """Send what is still queued, ask for what has been silent, fetch the pictures that were announced."""
        self._send_due()
        silent = self.search(
            [
                ("request_ref", "!=", False),
                ("status", "not in", [*OUR_STATUSES, *ENDED]),
                "|",
                ("heard_at", "=", False),
                ("heard_at", "<", fields.Datetime.now() - SILENCE),
            ],
            limit=AT_ONCE,
            order="heard_at",
        )
        for row in silent:
            if not row._follow():
                break
        with own_env(self.env.registry) as env:
            bare = env[self._name]._without_pictures().ids
        self.browse(bare)._fetch_pictures()

    @api.model
    def _without_pictures(self):
        """Rows with a picture that was announced, is not here, and is worth a try."""
        samples = self.env["creativeflow.generation.sample"].search(
            [("has_picture", "=", False), ("picture_tries", "<", PICTURE_TRIES_MAX)], limit=AT_ONCE
        )
        finals = self.search(
            [("final_url", "!=", False), ("has_final", "=", False), ("final_tries", "<", PICTURE_TRIES_MAX)],
            limit=AT_ONCE,
        )
        return samples.generation_id | finals


def _details(data):
    """What a reader may want to know of a line of the timeline: no ids, no lists."""
    told = {
        name: value
        for name, value in data.items()
        if isinstance(value, (str, int)) and name != "hold" and not name.endswith("_id")
    }
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())
