"""`make e2e-n8n`: the whole job with a real n8n, the workflows of n8n/, a real RabbitMQ and real pictures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
