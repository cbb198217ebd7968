"""Rejected prompts, without their words: who, which category, when."""

from alembic import op

from creativeflow.services.aigeneration.storage.migrations import statements

revision = "0005"
down_revision = "0004"

STATEMENTS = """
CREATE TABLE prompt_rejections (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text NOT NULL,
    category text NOT NULL,
    severe boolean NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX prompt_rejections_by_user ON prompt_rejections (user_id, at) WHERE severe;
CREATE INDEX prompt_rejections_by_time ON prompt_rejections (at);
CREATE INDEX generation_requests_in_review ON generation_requests (id)
    WHERE state = 'VALIDATING_CREDITS' AND pending_action IS NOT NULL;
"""


def upgrade() -> None:
    """Add what is new."""
    for statement in statements(STATEMENTS):
        op.get_bind().exec_driver_sql(statement)
