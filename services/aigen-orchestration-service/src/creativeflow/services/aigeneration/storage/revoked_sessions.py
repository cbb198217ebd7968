"""Sessions of the pages that were signed out, until they would have expired."""

from datetime import datetime

from creativeflow.services.aigeneration.storage.database import Database


class RevokedSessions:
    """The list that all processes share."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, session_id: str, expires_at: datetime) -> None:
        """Revoke a session; idempotent."""
        await self._database.execute(
            "INSERT INTO revoked_sessions (id, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            session_id,
            expires_at,
        )

    async def contains(self, session_id: str) -> bool:
        """Return whether a session is revoked."""
        return bool(
            await self._database.fetchval(
                "SELECT EXISTS (SELECT FROM revoked_sessions WHERE id = $1)", session_id
            )
        )

    async def forget(self, now: datetime) -> None:
        """Delete the sessions that have expired."""
        await self._database.execute("DELETE FROM revoked_sessions WHERE expires_at < $1", now)
