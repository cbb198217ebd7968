"""Rejected prompts as they are remembered: category and time, never the words."""

from datetime import datetime

from creativeflow.services.aigeneration.storage.database import Database


class PromptRejections:
    """Counts what each user was refused for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(
        self, user_id: str, category: str, *, severe: bool, now: datetime, since: datetime
    ) -> int:
        """Remember one; how many severe ones the user has had since then, this one included."""
        return int(
            await self._database.fetchval(
                """WITH noted AS (
                       INSERT INTO prompt_rejections (user_id, category, severe, at)
                           VALUES ($1, $2, $3, $4))
                   SELECT count(*) + $3::int FROM prompt_rejections WHERE user_id = $1 AND severe
                       AND at > $5""",
                user_id,
                category,
                severe,
                now,
                since,
            )
        )

    async def forget(self, before: datetime) -> int:
        """Delete rejections from before; return their number."""
        return await self._database.delete_in_batches(
            "DELETE FROM prompt_rejections WHERE id IN (SELECT id FROM prompt_rejections WHERE at <"
            " $1 LIMIT $2)",
            before,
        )
