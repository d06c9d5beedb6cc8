"""Every error a person can meet: one sentence, an HTTP status and OpenAI's error type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class BatchError(Exception):
    """Anything that a person is told in one sentence; the base of all errors here."""

    sentence: ClassVar[str] = "The request could not be carried out."
    """What is said where a raiser says nothing; no docstring, as `python -OO` drops those."""
    status: ClassVar[int] = 500
    """HTTP's."""
    type: ClassVar[str] = "server_error"
    """OpenAI's error type."""

    def __init__(self, message: str | None = None, **details: object) -> None:
        """`details` (JSON values) stand beside the message in the error's body."""
        self.message = message or self.sentence
        self.details = details
        super().__init__(self.message)

    def body(self) -> dict[str, object]:
        """The object that stands under "error" in llama-server's and OpenAI's replies."""
        return {"code": self.status, "message": self.message, "type": type(self).type, "param": None, **self.details}

    def record(self) -> dict[str, object]:
        """What a job's row keeps: the body and the name of the class, which `from_record` reads back."""
        return {**self.body(), "class": type(self).__name__}

    @staticmethod
    def from_record(record: Mapping[str, object]) -> BatchError:
        """The error that a worker wrote into a job's row; an unknown class becomes a plain BatchError."""
        details = {key: value for key, value in record.items() if key not in ("code", "message", "type", "class")}
        error_class = _classes().get(str(record.get("class")), BatchError)
        return error_class(str(record.get("message") or "") or None, **details)


def _classes() -> dict[str, type[BatchError]]:
    """Every error class that is loaded, by name."""
    pending: list[type[BatchError]] = [BatchError]
    classes: dict[str, type[BatchError]] = {}
    while pending:
        error_class = pending.pop()
        classes[error_class.__name__] = error_class
        pending += error_class.__subclasses__()
    return classes


class BadRequest(BatchError):
    """What a client or a person gave is malformed."""

    sentence = "The request is not valid."
    status = 400
    type = "invalid_request_error"


class ContextExceeded(BatchError):
    """The prompt and the tokens asked for do not fit the model's context."""

    sentence = "The request is longer than the model's context."
    status = 400
    type = "exceed_context_size_error"

    @classmethod
    def for_prompt(cls, tokens: int, n_ctx: int) -> ContextExceeded:
        """The sentence that llama-server has for a prompt of `tokens` in a context of `n_ctx` tokens."""
        return cls(
            f"request ({tokens} tokens) exceeds the available context size ({n_ctx} tokens), try increasing it",
            n_prompt_tokens=tokens,
            n_ctx=n_ctx,
        )


class Forbidden(BatchError):
    """The request came from elsewhere, or names another host or origin."""

    sentence = "Only programs on this machine may ask."
    status = 403
    type = "permission_error"


class NotFound(BatchError):
    """There is no such route, job, file or setting; the default is llama-server's sentence."""

    sentence = "File Not Found"
    status = 404
    type = "not_found_error"


class TooSlow(BatchError):
    """Headers or body took longer than limits allow."""

    sentence = "The request did not arrive in time."
    status = 408
    type = "invalid_request_error"


class Conflict(BatchError):
    """The state of a job, a port or a service forbids this."""

    sentence = "The job is not in a state that allows this."
    status = 409
    type = "invalid_request_error"


class TooLarge(BatchError):
    """A body, an image or a text is over its limit."""

    sentence = "The request is larger than this service takes."
    status = 413
    type = "invalid_request_error"


class UnsupportedMedia(BatchError):
    """A file is of no kind that can be read."""

    sentence = "The file is of a kind this service cannot read."
    status = 415
    type = "invalid_request_error"


class Unprocessable(BatchError):
    """An Idempotency-Key was used with another request."""

    sentence = "The request contradicts an earlier one."
    status = 422
    type = "invalid_request_error"


class HeadersTooLarge(BatchError):
    """Headers are over limits.header_bytes."""

    sentence = "The request's headers are larger than this service takes."
    status = 431
    type = "invalid_request_error"


class QueueFull(BatchError):
    """queue.waiting clients wait already."""

    sentence = "Too many requests are waiting; try again later."
    status = 429
    type = "rate_limit_error"


class Cancelled(BatchError):
    """A person or a client that hung up cancelled the job."""

    sentence = "The job was cancelled."
    status = 499
    type = "cancelled_error"


class NotSupported(BatchError):
    """The model of this port lacks what was asked for."""

    sentence = "This model cannot do that."
    status = 501
    type = "not_supported_error"


class Unavailable(BatchError):
    """The model is loading or has failed, or the service is stopping; the default is llama-server's sentence."""

    sentence = "Loading model"
    status = 503
    type = "unavailable_error"


class DiskFull(BatchError):
    """A disk takes no more, for whatever reason."""

    sentence = "The disk is full: free some space and try again."
    status = 507
    type = "server_error"


class WorkerDied(BatchError):
    """A job took its worker process down as often as queue.attempts allows."""

    sentence = "The worker process died while it ran this job."


class ModelProblem(BatchError):
    """A model's file is missing, damaged, or cannot be fetched or loaded."""

    sentence = "The model cannot be loaded."
    status = 503
    type = "unavailable_error"


class SettingsProblem(BatchError):
    """A setting is unknown, of another type or out of its bounds."""

    sentence = "A setting is not valid."


class AlreadyRunning(BatchError):
    """The home, or a port, is in use."""

    sentence = "Another instance is running in this home."
