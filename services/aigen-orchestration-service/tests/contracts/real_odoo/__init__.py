"""The credits suite against a real Odoo, where one is configured."""
