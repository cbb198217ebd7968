from . import test_access, test_allowed_fields, test_ledger, test_outbox, test_settings, test_webhook
