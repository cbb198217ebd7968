from . import test_ledger, test_access, test_outbox, test_webhook
