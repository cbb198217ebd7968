from . import test_access, test_allowed_fields, test_ledger, test_outbox, test_planted_rows, test_settings, test_webhook
