"""A process's one asyncio loop, and what is left of it where it breaks down."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from batch import logs
from batch.errors import BatchError
from batch.settings import Settings

logger = logging.getLogger("batch.supervisor")

BREAKDOWN_STATUS = 70
"""Exit status after a fault of our own; 1 is for what a person can mend, as a port in use."""


def run_loop(main: Callable[[], Coroutine[Any, Any, None]], settings: Settings, name: str) -> None:
    """Run what a process is for until that ends. Raises its BatchError, once the log has it too; any other fault ends the
    process with `BREAKDOWN_STATUS`, `name` being what broke down."""

    async def run() -> None:
        await main()  # made inside the loop

    try:
        asyncio.run(run())
    except BatchError as error:
        logs.last_words(settings, error.message)
        raise
    except Exception as error:
        logger.critical("%s broke down", name, exc_info=error)
        sys.exit(BREAKDOWN_STATUS)
