"""The bare endpoint: FastAPI, the same model, the same answer's size, and nothing behind it."""

import sys
from uuid import uuid4

import uvicorn
from fastapi import FastAPI

from creativeflow.services.aigeneration.api.schemas.generations import CreateRequest

app = FastAPI()


@app.post("/api/v1/generation-requests", status_code=202)
async def create(body: CreateRequest) -> dict[str, object]:
    """Validate and answer."""
    return {
        "id": uuid4(),
        "status": "PENDING",
        "user_id": body.user_id,
        "brief": body.model_dump(exclude_none=True),
    }


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
