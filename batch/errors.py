"""Every error a person can meet: one sentence, an HTTP status and OpenAI's error type."""

from __future__ import annotations

from typing import Any, ClassVar


class BatchError(Exception):
    """The request could not be carried out."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(self, message: str | None = None, **details: Any) -> None:
        """`details` (JSON values) stand beside the message in the error's body."""
        self.message = message or (type(self).__doc__ or "").strip()
        self.details = details
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """The object that stands under "error" in llama-server's and OpenAI's replies."""
        return {"code": self.status, "message": self.message, "type": type(self).type, "param": None, **self.details}

    def record(self) -> dict[str, Any]:
        """What a job's row keeps: the body and the class, so that `from_record` finds it again."""
        return {**self.body(), "class": type(self).__name__}

    @staticmethod
    def from_record(record: dict[str, Any]) -> BatchError:
        """The error a worker wrote into a job's row; an unknown class becomes a plain BatchError."""
        kept = {k: v for k, v in record.items() if k not in ("code", "message", "type", "class")}
        known = {c.__name__: c for c in _descendants(BatchError)}
        return known.get(record.get("class", ""), BatchError)(record.get("message"), **kept)


def _descendants(cls: type[BatchError]) -> list[type[BatchError]]:
    found = [cls]
    for child in cls.__subclasses__():
        found += _descendants(child)
    return found


class BadRequest(BatchError):
    """The request is not valid."""

    status = 400
    type = "invalid_request_error"


class ContextExceeded(BatchError):
    """The request is longer than the model's context."""

    status = 400
    type = "exceed_context_size_error"


class Forbidden(BatchError):
    """Only programs on this machine may ask."""

    status = 403
    type = "permission_error"


class NotFound(BatchError):
    """File Not Found"""

    status = 404
    type = "not_found_error"


class TooSlow(BatchError):
    """The request did not arrive in time."""

    status = 408
    type = "invalid_request_error"


class Conflict(BatchError):
    """The job is not in a state that allows this."""

    status = 409
    type = "invalid_request_error"


class TooLarge(BatchError):
    """The request is larger than this service takes."""

    status = 413
    type = "invalid_request_error"


class UnsupportedMedia(BatchError):
    """The file is of a kind this service cannot read."""

    status = 415
    type = "invalid_request_error"


class Unprocessable(BatchError):
    """The request contradicts an earlier one."""

    status = 422
    type = "invalid_request_error"


class HeadersTooLarge(BatchError):
    """The request's headers are larger than this service takes."""

    status = 431
    type = "invalid_request_error"


class QueueFull(BatchError):
    """Too many requests are waiting; try again later."""

    status = 429
    type = "rate_limit_error"


class Cancelled(BatchError):
    """The job was cancelled."""

    status = 499
    type = "cancelled_error"


class NotSupported(BatchError):
    """This model cannot do that."""

    status = 501
    type = "not_supported_error"


class Unavailable(BatchError):
    """Loading model"""

    status = 503
    type = "unavailable_error"


class DiskFull(BatchError):
    """The disk is full: free some space and try again."""

    status = 507
    type = "server_error"


class WorkerDied(BatchError):
    """The worker process died while it ran this job."""


class ModelProblem(BatchError):
    """The model cannot be loaded."""

    status = 503
    type = "unavailable_error"


class SettingsProblem(BatchError):
    """A setting is not valid."""


class AlreadyRunning(BatchError):
    """Another instance is running in this home."""
