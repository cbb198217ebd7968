"""`python -m creativeflow.services.aigeneration` is the command line."""

from creativeflow.services.aigeneration.cli.main import app

app(prog_name="aigen")
