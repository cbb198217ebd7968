"""What workers report is bounded."""

from creativeflow.services.aigeneration.application.worker_reports import ReportedAsset
from creativeflow.services.aigeneration.kit.json_input import METADATA_MAX_BYTES


def _asset(size: int) -> dict[str, object]:
    reported = ReportedAsset.model_validate(
        {
            "asset_id": "a",
            "url": "https://pictures.example/a.png",
            "resolution": "512x512",
            "format": "png",
            "metadata": {"seed": "x" * (size - len('{"seed":""}'))},
        }
    )
    return {**reported.asset()}


def test_metadata_of_a_picture_is_kept_up_to_its_bound() -> None:
    assert "metadata" in _asset(METADATA_MAX_BYTES)
    too_large = _asset(METADATA_MAX_BYTES + 1)
    assert "metadata" not in too_large
    assert too_large["asset_id"] == "a"
