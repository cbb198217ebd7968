"""The errors that callers can receive, with status, code, title and sentence.

`str(error)` is the sentence. docs/problems.md is generated from this module; translations are
looked up by `code`.
"""

from typing import Any, ClassVar


class AigenError(Exception):
    """Base class of the errors that callers receive."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Something went wrong on our side"
    sentence: ClassVar[str] = (
        "The request could not be handled. Nothing was charged; please try again in a moment."
    )
    retryable: ClassVar[bool] = False

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.fields = fields

    def __str__(self) -> str:
        return self.sentence.format_map(self.fields)

    @property
    def retry_after_seconds(self) -> int | None:
        """Seconds to wait before a retry, if known."""
        return self.fields.get("retry_after_seconds")


class InternalError(AigenError):
    """An internal error; the log has the details under the request id."""

    retryable = True


class InvalidRequestError(AigenError):
    """The body, the path or a parameter is invalid; `errors` lists each place."""

    status = 422
    code = "invalid_request"
    title = "The request is not valid"
    sentence = "Some fields do not fit. Correct what `errors` lists and send the request again."

    def __init__(self, *, errors: list[dict[str, str]]) -> None:
        super().__init__(errors=errors)
        self.errors = errors

    @classmethod
    def at(cls, pointer: str, code: str, message: str) -> "InvalidRequestError":
        """Return the error for a single place; `pointer` is a JSON pointer into the body."""
        return cls(errors=[{"pointer": pointer, "code": code, "message": message}])


class InvalidJsonError(AigenError):
    """The body is not JSON, or is nested too deeply."""

    status = 422
    code = "invalid_json"
    title = "The body is not valid JSON"
    sentence = (
        "The body could not be read as JSON. Send one JSON object in UTF-8, nested at most"
        " {max_depth} levels."
    )


class InvalidHeaderError(AigenError):
    """A header that is read as text is not UTF-8."""

    status = 400
    code = "invalid_header"
    title = "A header cannot be read"
    sentence = "The header {name} is not UTF-8 text. Send it in UTF-8, or only ASCII characters."


class PayloadTooLargeError(AigenError):
    """The body is larger than the limit."""

    status = 413
    code = "payload_too_large"
    title = "The body is too large"
    sentence = "The body may have at most {limit_bytes} bytes. Shorten it and send it again."


class BodyTooSlowError(AigenError):
    """The body was not received in time."""

    status = 408
    code = "body_too_slow"
    title = "The body did not arrive in time"
    sentence = (
        "Nothing was done. Send the request again, over a faster connection if this happens often."
    )
    retryable = True


class UnsupportedMediaTypeError(AigenError):
    """The content type of the body is not supported."""

    status = 415
    code = "unsupported_media_type"
    title = "This content type is not accepted"
    sentence = "Send the body as {expected}."


class MethodNotAllowedError(AigenError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"
    title = "This method is not allowed here"
    sentence = (
        "The path exists but does not take this method. The API description at /docs lists what it"
        " takes."
    )


class NotFoundError(AigenError):
    """The object does not exist or belongs to another user; the response is the same."""

    status = 404
    code = "not_found"
    title = "Not found"
    sentence = "Nothing was found at this address. Check the id and the account it belongs to."


class AuthenticationRequiredError(AigenError):
    """The call has no credentials."""

    status = 401
    code = "authentication_required"
    title = "Sign in first"
    sentence = "Send an API key in X-Internal-API-Key or a bearer token in Authorization."


class InvalidCredentialsError(AigenError):
    """The credentials are not accepted."""

    status = 401
    code = "invalid_credentials"
    title = "These credentials are not accepted"
    sentence = "The key or token is not valid here. Get a new one and try again."


class TokenExpiredError(InvalidCredentialsError):
    """The token has expired."""

    code = "token_expired"
    title = "The token has expired"
    sentence = "The token has expired. Sign in again and repeat the call."


class ForbiddenError(AigenError):
    """The caller lacks the role."""

    status = 403
    code = "forbidden"
    title = "Not allowed"
    sentence = "This caller may not do that. Use an account with the role {role}."


class HostNotAllowedError(AigenError):
    """An open service was called by a host name that another site could control."""

    status = 403
    code = "host_not_allowed"
    title = "Host not allowed"
    sentence = (
        "Without API keys this service accepts local host names only. Use localhost, or set"
        " AIGEN_PUBLIC_URL."
    )


class CsrfError(AigenError):
    """A form was not submitted from a page of this service in the current session."""

    status = 403
    code = "csrf_failed"
    title = "The form was not accepted"
    sentence = (
        "It was not sent by a page of this session, or that page is too old. Reload the page and"
        " try again."
    )


class UserMismatchError(AigenError):
    """The body names another user than the token does."""

    status = 403
    code = "user_mismatch"
    title = "The user in the body is not the signed-in user"
    sentence = "A signed-in user can act only for themselves. Leave `user_id` out or send your own."


class PlanRequiredError(AigenError):
    """The plan does not include a feature (REQ-006, REQ-016)."""

    status = 403
    code = "plan_required"
    title = "Your plan does not include this"
    sentence = "{feature} needs the {plan} plan or higher. Upgrade, or ask without it."


class AccountRestrictedError(AigenError):
    """The account is flagged until an operator clears it (REQ-016)."""

    status = 403
    code = "account_restricted"
    title = "This account is restricted"
    sentence = (
        "A payment on this account is under review. Contact support to clear the restriction."
    )


class InsufficientCreditsError(AigenError):
    """The credit service refused the hold; nothing was charged."""

    status = 402
    code = "insufficient_credits"
    title = "Not enough credits"
    sentence = (
        "This costs {required} credits and the account does not have them. Top up and try again."
    )


class FreeQuotaExhaustedError(AigenError):
    """The Free plan's generations of this month are used up (REQ-016)."""

    status = 402
    code = "free_quota_exhausted"
    title = "The free generations of this month are used up"
    sentence = (
        "The Free plan includes {limit} generations a month (UTC). Upgrade to continue now, or wait"
        " for next month."
    )


class PromptRejectedError(AigenError):
    """The prompt check refused the prompt; nothing was charged."""

    status = 422
    code = "prompt_rejected"
    title = "This prompt cannot be used"
    sentence = (
        "The prompt breaks the content rules. Change the words and try again; nothing was charged."
    )


class PromptReviewRequiredError(AigenError):
    """The changed prompt would need a review, which a request in progress cannot wait for."""

    status = 422
    code = "prompt_review_required"
    title = "The prompt needs a review"
    sentence = (
        "An operator must review these words first. Start a new request with them; nothing was"
        " charged."
    )


class SafetyUnavailableError(AigenError):
    """Prompts cannot be checked now; unchecked prompts are not accepted."""

    status = 503
    code = "safety_unavailable"
    title = "Prompts cannot be checked right now"
    sentence = (
        "The content check does not answer. Nothing was charged; please try again in a moment."
    )
    retryable = True


class QuoteExpiredError(AigenError):
    """The price differs from the quote, or the quote has expired; the charge never differs from the
    quote (REQ-016).
    """

    status = 409
    code = "quote_expired"
    title = "The quote is no longer valid"
    sentence = (
        "The quote has expired or the price has changed since. Nothing was charged. Get a new"
        " quote."
    )


class InvalidStateError(AigenError):
    """The action is not possible in the state of the request."""

    status = 409
    code = "invalid_state"
    title = "The request is in another state"
    sentence = (
        "The request is {state}, which does not allow this. Its `actions` lists what is possible."
    )


class IllegalTransitionError(InvalidStateError):
    """TRANSITIONS has no row for the event in this state."""

    sentence = (
        "The request is {state}, which does not allow {event}. Its `actions` lists what is"
        " possible."
    )


class ActionInProgressError(AigenError):
    """Another action on the request is waiting for the credit service."""

    status = 409
    code = "action_in_progress"
    title = "Another action is in progress"
    sentence = (
        "An earlier action on this request is still in progress. Wait a moment and read the"
        " request again."
    )
    retryable = True


class AlreadySelectedError(AigenError):
    """Exactly one sample can be selected (REQ-008)."""

    status = 409
    code = "already_selected"
    title = "Another sample was already selected"
    sentence = (
        "Sample {sample_id} was already selected for this request. Start a new request to use"
        " another one."
    )


class TooManyRoundsError(AigenError):
    """The number of regenerations is limited."""

    status = 409
    code = "too_many_rounds"
    title = "No more regenerations"
    sentence = (
        "A request can have {limit} rounds of samples. Select one of these samples, or start a new"
        " request."
    )


class StaleResultError(AigenError):
    """The result is for a job that is not the current one; it is recorded as evidence, never
    applied and never paid.
    """

    status = 409
    code = "stale_result"
    title = "This job is no longer current"
    sentence = (
        "The request has moved on and no longer waits for this job. Stop working on it; do not send"
        " it again."
    )


class PreconditionFailedError(AigenError):
    """The version of the request differs from If-Match."""

    status = 412
    code = "precondition_failed"
    title = "The request has changed"
    sentence = (
        "The version of the request differs from If-Match. Read it again before you repeat the"
        " action."
    )


class IdempotencyKeyRequiredError(AigenError):
    """The settings require an Idempotency-Key."""

    status = 400
    code = "idempotency_key_required"
    title = "Idempotency-Key is missing"
    sentence = (
        "Send an Idempotency-Key header of 1 to 255 characters, new for every action and the same"
        " for its retries."
    )


class IdempotencyKeyInFlightError(AigenError):
    """The first call with this key has no response yet."""

    status = 409
    code = "idempotency_key_in_flight"
    title = "The first call with this key is still running"
    sentence = (
        "A call with this Idempotency-Key is still in progress. Repeat it in a moment to get its"
        " answer."
    )
    retryable = True


class IdempotencyKeyReusedError(AigenError):
    """The key was used with a different body."""

    status = 422
    code = "idempotency_key_reused"
    title = "This key belongs to another call"
    sentence = "This Idempotency-Key was used with another body. Use a new key for a new action."


class WebhookEndpointExistsError(AigenError):
    """A URL is registered once per caller, so a repeated registration does not create a second
    endpoint.
    """

    status = 409
    code = "webhook_endpoint_exists"
    title = "This address is registered already"
    sentence = (
        "This address is your endpoint {endpoint_id}. Use that one; if its secret is lost,"
        " rotate it."
    )


class TooManyWebhookEndpointsError(AigenError):
    """The number of endpoints per caller is limited."""

    status = 409
    code = "too_many_webhook_endpoints"
    title = "No more webhook endpoints"
    sentence = (
        "A caller can have {limit} webhook endpoints. Use one of them for more than one purpose, or"
        " delete one."
    )


class WebhookEndpointDisabledError(AigenError):
    """The endpoint is disabled."""

    status = 409
    code = "webhook_endpoint_disabled"
    title = "The webhook endpoint is disabled"
    sentence = (
        "Nothing is sent to this endpoint while it is disabled. Check why, enable it and try again."
    )


class RateLimitedError(AigenError):
    """The caller exceeded the rate limit."""

    status = 429
    code = "rate_limited"
    title = "Too many calls"
    sentence = "There were too many calls. Wait {retry_after_seconds} seconds and try again."
    retryable = True


class UploadQuotaError(AigenError):
    """The user has reached the limit of reference pictures, or of their bytes, for the current
    period.
    """

    status = 429
    code = "upload_quota"
    title = "Too many pictures uploaded"
    sentence = (
        "An account may upload {pictures_max} pictures and {bytes_max} bytes in {days} days. Use a"
        " picture that is uploaded already, or try again in {retry_after_seconds} seconds."
    )
    retryable = True


class JobUploadsError(AigenError):
    """The worker has reached the limit of pictures, or of their bytes, for the job."""

    status = 413
    code = "job_uploads"
    title = "Too many uploads for one job"
    sentence = (
        "One job may upload {pictures_max} pictures and {bytes_max} bytes. Stop uploading and send"
        " the result with what is uploaded already."
    )


class ServiceUnavailableError(AigenError):
    """A required system is unavailable; nothing was started."""

    status = 503
    code = "service_unavailable"
    title = "Temporarily unavailable"
    sentence = (
        "The service cannot accept this right now. Nothing was charged; try again in a few seconds."
    )
    retryable = True


class StorageUnavailableError(ServiceUnavailableError):
    """The database is unavailable, or the connection was lost; the outcome of the write is
    unknown.
    """

    code = "storage_unavailable"
    sentence = (
        "The service cannot reach its database right now. Try again in a few seconds, with the same"
        " Idempotency-Key."
    )


class CreditsUnavailableError(ServiceUnavailableError):
    """The credit service is unavailable, and the action may cost credits."""

    code = "credits_unavailable"
    title = "Credits cannot be checked right now"
    sentence = (
        "Credits cannot be checked right now, so nothing was started or charged. Try again in a few"
        " seconds."
    )


def every_error() -> list[type[AigenError]]:
    """Return all error classes below the root, in the order of definition."""
    found: list[type[AigenError]] = []
    waiting = [AigenError]
    while waiting:
        children = waiting.pop(0).__subclasses__()
        found += children
        waiting += children
    return found
