from . import test_access, test_ledger, test_outbox, test_settings, test_webhook
