"""The pictures among which the user picks."""

from odoo import fields, models


class GenerationSample(models.Model):
    """One sample of the current round, with its picture once it has been fetched."""

    _name = "creativeflow.generation.sample"
    _inherit = "creativeflow.allowed.fields"
    _description = "Generation sample"
    _order = "generation_id, position, id"
    _rec_name = "asset_ref"

    generation_id = fields.Many2one(
        "creativeflow.generation", required=True, readonly=True, index=True, ondelete="cascade"
    )
    asset_ref = fields.Char("Asset id", required=True, readonly=True)
    position = fields.Integer(readonly=True)
    url = fields.Char("Address", readonly=True)
    resolution = fields.Char(readonly=True)
    picture = fields.Binary(attachment=True, readonly=True)
    has_picture = fields.Boolean(readonly=True)
    picture_tries = fields.Integer(readonly=True)
    can_pick = fields.Boolean(compute="_compute_pick")
    picked = fields.Boolean(compute="_compute_pick")

    def _compute_pick(self):
        for sample in self:
            sample.picked = sample.generation_id.selected_sample_ref == sample.asset_ref
            sample.can_pick = sample.generation_id.can_select

    def _show(self, picture):
        """The first picture that comes is what the request is known by, until a better one is there."""
        if not picture:
            return
        self.has_picture = True
        if not self.generation_id.has_final and (self.picked or not self.generation_id.cover):
            self.generation_id.cover = picture

    def action_pick(self):
        """Let this sample become the final."""
        self.ensure_one()
        return self.generation_id._order_call(
            "select-sample",
            {
                "selected_sample_id": self.asset_ref,
                "desired_resolution": self.generation_id.desired_resolution or None,
                "output_format": self.generation_id.file_format,
            },
        )
