"""What the service answers, with the names a program uses; `raw` is the answer itself, whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

AWAITING_SELECTION = "AWAITING_SELECTION"
COMPLETED = "COMPLETED"
ENDED = frozenset({COMPLETED, "FAILED", "CONTENT_REJECTED", "CANCELLED", "EXPIRED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A picture; `resolution` is "WxH" in pixels."""

    asset_id: str
    url: str
    resolution: str
    format: str

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """From the service's words; what is not known here is left out."""
        return cls(
            asset_id=said["asset_id"],
            url=said["url"],
            resolution=said["resolution"],
            format=said["format"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A generation request at one version of it; amounts in credits, exactly."""

    id: str
    status: str
    version: int
    samples: tuple[Asset, ...]
    final: Asset | None
    cost: Decimal
    actions: tuple[str, ...]
    failure_code: str | None
    failure_message: str | None
    percent: int | None
    raw: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether nothing will ever change any more."""
        return self.status in ENDED

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """From the service's words."""
        failure, final = said.get("failure") or {}, said.get("final_asset")
        return cls(
            id=said["id"],
            status=said["status"],
            version=said["version"],
            samples=tuple(Asset.read(sample) for sample in said.get("samples", ())),
            final=Asset.read(final) if final else None,
            cost=Decimal(said["cost"]["total"]),
            actions=tuple(said.get("actions", ())),
            failure_code=failure.get("code"),
            failure_message=failure.get("message"),
            percent=(said.get("progress") or {}).get("percent"),
            raw=said,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a generation would cost; sent along as `quote_id`, it costs that or is refused."""

    quote_id: str
    expires_at: str
    total: Decimal
    balance: Decimal | None
    raw: Mapping[str, Any]

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """From the service's words."""
        balance = said.get("balance")
        return cls(
            quote_id=said["quote_id"],
            expires_at=said["expires_at"],
            total=Decimal(said["total"]),
            balance=None if balance is None else Decimal(balance),
            raw=said,
        )
