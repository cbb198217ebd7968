"""Fields that users may set; defaults fill no other field."""

from odoo import api, models


class AllowedFields(models.AbstractModel):
    """Restrict defaults from the context and from `ir.default` to the fields that users may set.

    Both kinds of defaults belong to the caller: `create()`, an import, a copy, `name_create()` and a form all apply
    them to fields that the caller never names. `default_get()` is the one place where Odoo reads them. The restriction
    also holds for the superuser, because `sudo()` keeps the personal defaults of its user.
    """

    _name = "creativeflow.allowed.fields"
    _description = "Fields that users may set"
    # An x2many command on another model would otherwise write these records with the rights of that model's sudo().
    _allow_sudo_commands = False

    def _user_fields(self):
        """Return the names of the fields that the current user may set; addons extend it for fields of their own."""
        return frozenset()

    @api.model
    def default_get(self, fields):
        """Apply the caller's defaults to the fields that users may set, and the model's own to all others."""
        allowed = self._user_fields()
        defaults = super().default_get([name for name in fields if name in allowed])
        for name in fields:
            field = self._fields.get(name)
            if name not in allowed and field and field.default:
                value = field.convert_to_cache(field.default(self), self, validate=False)
                defaults[name] = field.convert_to_write(value, self)
        return defaults
