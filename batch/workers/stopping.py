"""What ends a job when the service stops."""


class Stopping(BaseException):
    """The service stops and the grace time is over: the job goes back. No engine may catch it as an Exception."""
