"""Read requests from the JSON of the service's answers and webhooks."""

from ..service import is_request_id
from .generation import OUR_STATUSES, STATUSES

INTEGER_MAX = 2**31 - 1
_THEIR_STATUSES = {status for status, _ in STATUSES} - OUR_STATUSES


class NotUnderstoodError(ValueError):
    """The JSON is no request, or one whose fields this version does not know."""


def read_request(resource):
    """Return the fields of a request that are used, each checked for its type.

    Raises:
        NotUnderstoodError: a field is missing, or has another type than the service's description says.
    """
    request = _object(resource)
    if not is_request_id(request.get("id")):
        raise NotUnderstoodError("id is no UUID")
    if _text(request, "status") not in _THEIR_STATUSES:
        raise NotUnderstoodError("status is not known")
    actions, samples = _list(request, "actions"), _list(request, "samples")
    cost = _object(request.get("cost"))
    failure, final = (_object(request.get(name) or {}) for name in ("failure", "final_asset"))
    return {
        "id": request["id"],
        "retry_of": _text(request, "retry_of"),
        "row_key": _text(_object(request.get("metadata") or {}), "odoo_row"),
        "values": {
            "version": _integer(request, "version"),
            "status": request["status"],
            "round_number": _integer(request, "round"),
            "possible_actions": ",".join(_text({"action": action}, "action") or "" for action in actions),
            "selected_sample_ref": _text(request, "selected_sample_id"),
            "queue_position": _integer(request, "queue_position", missing=0),
            "cost_samples": _text(cost, "samples"),
            "cost_final": _text(cost, "final"),
            "cost_total": _text(cost, "total"),
            "cost_held": _text(cost, "held"),
            "message": _text(failure, "message"),
            "final_url": _text(final, "url"),
            "final_resolution": _text(final, "resolution"),
        },
        "samples": [_read_sample(_object(sample)) for sample in samples],
    }


def _read_sample(sample):
    if not _text(sample, "asset_id"):
        raise NotUnderstoodError("a sample has no asset_id")
    return {
        "asset_ref": sample["asset_id"],
        "position": _integer(sample, "index", missing=0),
        "url": _text(sample, "url"),
        "resolution": _text(sample, "resolution"),
    }


def _object(value):
    if not isinstance(value, dict):
        raise NotUnderstoodError("an object is missing")
    return value


def _list(found, name):
    if not isinstance(found.get(name), list):
        raise NotUnderstoodError(f"{name} is no list")
    return found[name]


def _text(found, name):
    value = found.get(name)
    if value is not None and (not isinstance(value, str) or "\0" in value):
        raise NotUnderstoodError(f"{name} is no text")
    return value


def _integer(found, name, *, missing=None):
    value = missing if found.get(name) is None else found[name]
    if type(value) is not int or not 0 <= value <= INTEGER_MAX:
        raise NotUnderstoodError(f"{name} is no whole number")
    return value
