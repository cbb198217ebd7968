"""Field names of jobs and results in older CreativeFlow workflows, for the setting `field_names`.

Older results are recognised by their fields, so that workers of both kinds can report at the same
time.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

JOB: Mapping[str, str] = MappingProxyType(
    {
        "job_id": "jobId",
        "generation_request_id": "generationRequestId",
        "job_type": "jobType",
        "user_id": "userId",
        "project_id": "projectId",
        "user_context": "userContext",
        "input_prompt": "inputPrompt",
        "style_guidance": "styleGuidance",
        "output_format": "outputFormat",
        "sample_count": "sampleCount",
        "sample_resolution": "sampleResolution",
        "selected_sample": "selectedSample",
        "final_resolution": "finalResolution",
        "file_format": "fileFormat",
        "brand_kit_id": "brandKitId",
        "uploaded_image_references": "uploadedImageReferences",
        "target_platform_hints": "targetPlatformHints",
        "emotional_tone": "emotionalTone",
        "industry_template": "industryTemplate",
        "cultural_adaptation_parameters": "culturalAdaptationParameters",
        "color_scheme": "colorScheme",
        "callback_url_started": "callbackUrlStarted",
        "callback_url_progress": "callbackUrlProgress",
        "callback_url_sample_result": "callbackUrlSampleResult",
        "callback_url_final_result": "callbackUrlFinalResult",
        "callback_url_error": "callbackUrlError",
        "callback_url_asset": "callbackUrlAsset",
        "callback_token": "callbackToken",
    }
)
"""Current and older name of each field of a job; other fields have one name."""

RESULT: Mapping[str, str] = MappingProxyType(
    {
        "generationRequestId": "generation_request_id",
        "requestId": "generation_request_id",
        "jobId": "job_id",
        "callbackToken": "callback_token",
        "sampleAssets": "samples",
        "finalAsset": "final_asset",
        "assetId": "asset_id",
        "assetUrl": "url",
        "errorCode": "error_code",
        "errorMessage": "error_message",
        "errorDetails": "error_details",
        "failedStage": "failed_stage",
        "isSystemError": "is_system_error",
        "aiModelUsed": "ai_model_used",
        "processingTimeMs": "processing_time_ms",
    }
)
"""Older and current name of each field of a result, at any depth."""

STATUS: Mapping[str, str] = MappingProxyType(
    {"Completed": "result", "Failed": "error", "ContentRejected": "error", "Processing": "progress"}
)
"""The kind of report of each older `status`; the assets tell which result it is."""

_CODES = {"Failed": "provider_error", "ContentRejected": "prompt_rejected"}


def older_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job with the older field names."""
    renamed = {JOB.get(name, name): value for name, value in job.items()}
    if (selected := renamed.get("selectedSample")) is not None:
        renamed["selectedSample"] = {
            "assetId" if name == "asset_id" else name: v for name, v in selected.items()
        }
    return renamed


def current_result(kind: str, value: Any) -> tuple[str, Any]:
    """Return a result with the current field names, and its kind."""
    if not isinstance(value, dict) or not (
        RESULT.keys() & value.keys() or str(value.get("status")) in STATUS
    ):
        return kind, value
    result = _renamed(value)
    status = str(result.pop("status", ""))
    match STATUS.get(status):
        case "error":
            result.setdefault("error_code", _CODES[status])
            return "error", result
        case "result":
            return ("final-result" if "final_asset" in result else "sample-result"), result
        case "progress":
            return "progress", result
        case _:
            return kind, result


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {RESULT.get(name, name): _renamed(inner) for name, inner in value.items()}
    return [_renamed(inner) for inner in value] if isinstance(value, list) else value
