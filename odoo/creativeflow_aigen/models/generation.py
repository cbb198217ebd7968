"""A creative asked of the generation service: what its user wants, and where it stands."""

from uuid import uuid4

from odoo import api, fields, models
from odoo.exceptions import AccessError, UserError, ValidationError
from odoo.release import version_info

from ..service import is_request_id

FORMATS = [
    ("InstagramPost_1x1", "Instagram post (1:1)"),
    ("InstagramStory_9x16", "Instagram story (9:16)"),
    ("InstagramReel_9x16", "Instagram reel (9:16)"),
    ("FacebookPost", "Facebook post"),
    ("FacebookAd", "Facebook ad"),
    ("LinkedInPost", "LinkedIn post"),
    ("LinkedInArticle", "LinkedIn article"),
    ("XPost", "X post"),
    ("TikTok_9x16", "TikTok (9:16)"),
    ("YouTubeThumbnail_16x9", "YouTube thumbnail (16:9)"),
    ("PinterestPin_2x3", "Pinterest pin (2:3)"),
    ("Custom", "Own size"),
]
STATUSES = [
    ("DRAFT", "Draft"),
    ("QUEUED", "To be sent"),
    ("REFUSED", "Refused"),
    ("VALIDATING_CREDITS", "Checking credits"),
    ("PENDING", "Waiting"),
    ("PUBLISHING_TO_QUEUE", "Handed over"),
    ("PROCESSING_SAMPLES", "Making samples"),
    ("AWAITING_SELECTION", "Pick a sample"),
    ("PROCESSING_FINAL", "Making the final"),
    ("COMPLETED", "Done"),
    ("FAILED", "Failed"),
    ("CONTENT_REJECTED", "Rejected"),
    ("CANCELLED", "Cancelled"),
    ("EXPIRED", "Expired"),
]
OUR_STATUSES = {"DRAFT", "QUEUED", "REFUSED"}
ENDED = {"COMPLETED", "FAILED", "CONTENT_REJECTED", "CANCELLED", "EXPIRED"}
CALLS = [
    ("create", "Generate"),
    ("retry", "Retry"),
    ("select-sample", "Pick a sample"),
    ("regenerate-samples", "Regenerate"),
    ("cancel", "Cancel"),
]
BRIEF = {
    "name",
    "input_prompt",
    "style_guidance",
    "output_format",
    "custom_width",
    "custom_height",
    "emotional_tone",
    "industry_template",
    "color_scheme",
    "model_name",
    "desired_resolution",
    "file_format",
    "project_ref",
}
"""What a user writes; everything else is written by the service's answers."""


class Generation(models.Model):
    """What a user writes and does. How it is sent is in `outbox`, how it is followed in `news`."""

    _name = "creativeflow.generation"
    _inherit = "creativeflow.allowed.fields"
    _description = "Generation"
    _order = "id desc"

    name = fields.Char("Title", required=True, default=lambda self: self.env._("New creative"))
    user_id = fields.Many2one("res.users", "Owner", required=True, index=True, default=lambda self: self.env.user)
    user_ref = fields.Char(
        "User id", readonly=True, copy=False, help="Whose credits pay: the user id of the owner's credit account."
    )
    input_prompt = fields.Text("Prompt", required=True)
    style_guidance = fields.Text("Style")
    output_format = fields.Selection(FORMATS, "Format", required=True, default="InstagramPost_1x1")
    custom_width = fields.Integer("Width")
    custom_height = fields.Integer("Height")
    emotional_tone = fields.Char("Tone")
    industry_template = fields.Char("Industry")
    color_scheme = fields.Char("Colours", help="Separated by commas.")
    model_name = fields.Char("AI model", help="Empty for the service's choice.")
    project_ref = fields.Char("Project")
    desired_resolution = fields.Selection(
        [("HD", "HD"), ("FHD", "Full HD"), ("2K", "2K"), ("4K", "4K")],
        "Final size",
        help="Of the longest side; empty for the format's own. Above Full HD the price is that of high resolution.",
    )
    file_format = fields.Selection(
        [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WebP")], "File", default="png", required=True
    )
    retry_of_id = fields.Many2one("creativeflow.generation", "Retry of", readonly=True, copy=False, ondelete="set null")

    status = fields.Selection(STATUSES, required=True, readonly=True, default="DRAFT", copy=False, index=True)
    call_state = fields.Selection(
        [("queued", "To be sent"), ("sent", "Sent"), ("refused", "Refused")],
        "Last call",
        readonly=True,
        copy=False,
        index=True,
    )
    call_name = fields.Selection(CALLS, "Call", readonly=True, copy=False)
    call_key = fields.Char(readonly=True, copy=False)
    call_body = fields.Json(readonly=True, copy=False)
    call_tries = fields.Integer("Times sent", readonly=True, copy=False)
    call_next_at = fields.Datetime("Sent again at", readonly=True, copy=False)
    cancel_wanted = fields.Boolean(readonly=True, copy=False)
    message = fields.Text(readonly=True, copy=False, help="What the user should know now.")

    row_key = fields.Char(required=True, readonly=True, copy=False, default=lambda self: str(uuid4()))
    request_ref = fields.Char("Request id", readonly=True, copy=False)
    version = fields.Integer(readonly=True, copy=False)
    round_number = fields.Integer("Round", readonly=True, copy=False)
    possible_actions = fields.Char(readonly=True, copy=False)
    selected_sample_ref = fields.Char(readonly=True, copy=False)
    queue_position = fields.Integer("Place in the queue", readonly=True, copy=False)
    cost_samples = fields.Char("Cost of the samples", readonly=True, copy=False)
    cost_final = fields.Char("Cost of the final", readonly=True, copy=False)
    cost_total = fields.Char("Cost", readonly=True, copy=False, help="In credits; what is set aside is included.")
    cost_held = fields.Char("Set aside", readonly=True, copy=False)
    heard_at = fields.Datetime("Last news", readonly=True, copy=False)

    sample_ids = fields.One2many(
        "creativeflow.generation.sample", "generation_id", "Samples", readonly=True, copy=False
    )
    final_url = fields.Char(readonly=True, copy=False)
    final_resolution = fields.Char("Final resolution", readonly=True, copy=False)
    final_picture = fields.Binary("Final", attachment=True, readonly=True, copy=False)
    final_filename = fields.Char(compute="_compute_final_filename")
    has_final = fields.Boolean(readonly=True, copy=False)
    final_tries = fields.Integer(readonly=True, copy=False)
    cover = fields.Image(max_width=512, max_height=512, readonly=True, copy=False)
    timeline = fields.Html(readonly=True, copy=False)

    can_generate = fields.Boolean(compute="_compute_possible")
    can_edit = fields.Boolean(compute="_compute_possible")
    can_select = fields.Boolean(compute="_compute_possible")
    can_regenerate = fields.Boolean(compute="_compute_possible")
    can_cancel = fields.Boolean(compute="_compute_possible")
    can_retry = fields.Boolean(compute="_compute_possible")

    if version_info[0] >= 19:
        _row_key_unique = models.Constraint("UNIQUE (row_key)", "A row key is one generation.")
        _request_unique = models.Constraint("UNIQUE (request_ref)", "A request is one generation.")
    else:
        _sql_constraints = [
            ("row_key_unique", "UNIQUE (row_key)", "A row key is one generation."),
            ("request_unique", "UNIQUE (request_ref)", "A request is one generation."),
        ]

    @api.constrains("request_ref")
    def _check_request_ref(self):
        if any(row.request_ref and not is_request_id(row.request_ref) for row in self):
            raise ValidationError(self.env._("A request id is a UUID."))

    @api.depends("name", "file_format")
    def _compute_final_filename(self):
        for generation in self:
            generation.final_filename = f"{generation.name}.{generation.file_format}"

    @api.depends("status", "call_state", "possible_actions", "cancel_wanted")
    def _compute_possible(self):
        for generation in self:
            idle = generation.call_state != "queued"
            possible = set((generation.possible_actions or "").split(",")) if idle else set()
            generation.can_generate = idle and generation.status in {"DRAFT", "REFUSED"}
            generation.can_select = "select-sample" in possible
            generation.can_regenerate = "regenerate-samples" in possible
            generation.can_retry = "retry" in possible
            generation.can_cancel = "cancel" in possible or (
                not idle and generation.call_name in {"create", "retry"} and not generation.cancel_wanted
            )
            generation.can_edit = generation.can_generate or generation.can_regenerate

    @api.model_create_multi
    def create(self, vals_list):
        """A user writes a brief; where it stands is not theirs to say."""
        if not self.env.su:
            for vals in vals_list:
                self._check_user_fields(vals)
        return super().create(vals_list)

    def write(self, vals):
        """A user writes the brief, until it is on its way."""
        if not self.env.su:
            self._check_user_fields(vals)
            if set(vals) & BRIEF - {"name", "desired_resolution", "file_format"} and not all(
                generation.can_edit for generation in self
            ):
                raise UserError(self.env._("What is on its way cannot be changed. Wait, or make a new creative."))
            if any(row.user_id.id != vals.get("user_id", row.user_id.id) and row._is_being_made() for row in self):
                raise UserError(self.env._("The owner pays until the creative is done. Cancel it first, or wait."))
        return super().write(vals)

    def unlink(self):
        """Only what was never sent, or has ended: the rest would go on and cost credits with nobody to see it."""
        if any(row._is_being_made() for row in self):
            raise UserError(self.env._("This creative is being made. Cancel it first."))
        return super().unlink()

    def _is_being_made(self):
        return self.status not in {"DRAFT", "REFUSED"} | ENDED

    def _user_fields(self):
        """Return the brief, and for managers the owner."""
        manager = self.env.user.has_group("creativeflow_aigen.group_manager")
        return super()._user_fields() | BRIEF | ({"user_id"} if manager else set())

    def _check_user_fields(self, vals):
        own = vals.get("user_id") == self.env.uid
        if foreign := set(vals) - self._user_fields() - ({"user_id"} if own else set()):
            raise AccessError(self.env._("These fields are written by the service: %s.", ", ".join(sorted(foreign))))

    def action_generate(self):
        """Ask the service for samples: for each row that is a draft or was refused; others are left as they are.

        Made for buttons, server actions and automation rules: nothing is sent before the transaction is committed.
        """
        for generation in self.filtered("can_generate"):
            generation.sudo().user_ref = generation._payer()
            if generation.retry_of_id.request_ref:
                generation._order_call("retry", generation._changes())
            else:
                generation._order_call("create", generation._brief())
            generation.sudo().status = "QUEUED"
        return True

    def action_regenerate(self):
        """Ask for another round of samples, with prompt, style and model as they are now."""
        self.ensure_one()
        return self._order_call("regenerate-samples", self._changes())

    def action_cancel(self):
        """End the request; one whose start is still on its way is cancelled as soon as the service has it."""
        self.ensure_one()
        if self.call_state == "queued" and self.call_name in {"create", "retry"}:
            self.check_access("write")
            self.sudo().write(
                {"cancel_wanted": True, "message": self.env._("This is cancelled as soon as the service has it.")}
            )
            return True
        return self._order_call("cancel", None)

    def action_retry(self):
        """Open a new draft with the same brief; it is sent as a retry of this request."""
        self.ensure_one()
        if not self.can_retry:
            raise UserError(self.env._("This creative cannot be tried again."))
        again = self.copy({"name": self.env._("%s (again)", self.name)})
        again.sudo().retry_of_id = self
        return {
            "type": "ir.actions.act_window",
            "res_model": self._name,
            "res_id": again.id,
            "view_mode": "form",
            "views": [(False, "form")],
        }

    def action_refresh(self):
        """Ask the service how the request stands, and fetch pictures and timeline."""
        self.ensure_one()
        self.check_access("write")
        if not self.request_ref:
            raise UserError(self.env._("The service has not taken this creative yet."))
        if not self._follow():
            raise UserError(self.env._("The generation service does not answer. Try again in a moment."))
        self._fetch_timeline()
        self._fetch_pictures()
        return True

    def _payer(self):
        """Return the user id whose credits pay: that of the owner's account, or one of the owner's own."""
        account = (
            self.env["creativeflow.credit.account"]
            .sudo()
            .search([("partner_id", "=", self.user_id.partner_id.id)], order="id", limit=1)
        )
        return account.user_ref or self._payer_without_account()

    def _payer_without_account(self):
        return f"odoo-{self.user_id.id}"

    def _brief(self):
        """The body that starts a request; `metadata` lets a webhook find this row before the call is answered."""
        wanted = {
            "user_id": self.user_ref,
            "input_prompt": self.input_prompt,
            "output_format": self.output_format,
            "style_guidance": self.style_guidance,
            "emotional_tone": self.emotional_tone,
            "industry_template": self.industry_template,
            "model": self.model_name,
            "project_id": self.project_ref,
            "color_scheme": [part.strip() for part in (self.color_scheme or "").split(",") if part.strip()],
            "metadata": {"odoo_row": self.row_key},
        }
        if self.output_format == "Custom":
            wanted["custom_dimensions"] = {"width": self.custom_width, "height": self.custom_height}
        return {field: value for field, value in wanted.items() if value}

    def _changes(self):
        wanted = {
            "updated_prompt": self.input_prompt,
            "updated_style_guidance": self.style_guidance,
            "model": self.model_name,
        }
        return {field: value for field, value in wanted.items() if value}
