"""`python -m batch` is the `batch` command."""

from batch.cli.app import main

main()
