"""Runs one command and ends it, with all that it started, once whoever asked for it is gone: a script of its own process.

    python -I -S command_guard.py DESCRIPTOR COMMAND [ARGUMENT…]

DESCRIPTOR is the reading end of a pipe that the service holds open as long as the command may run: it closes it when the
time is over, and the system does when the service stops or is killed. Ends as the command does.
"""

import contextlib
import os
import select
import signal
import sys

CANNOT_RUN_STATUS = 127
NICENESS = 10


def main() -> int:
    """Exit status of the command."""
    service, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(service, False)
    os.nice(NICENESS)
    child_ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigdef=(signal.SIGPIPE, signal.SIGXFSZ))
    except OSError as error:
        print(f"{command[0]} cannot be run: {error.strerror}", file=sys.stderr)
        return CANNOT_RUN_STATUS
    select.select([service, child_ended], [], [])
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        end_by(os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def end_by(number: int) -> None:
    """End this process by a signal, as the command was."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main())
