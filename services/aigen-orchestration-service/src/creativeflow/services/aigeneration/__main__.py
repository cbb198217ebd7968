"""`python -m creativeflow.services.aigeneration` is the command line."""

from creativeflow.services.aigeneration.cli import app

app(prog_name="aigen")
