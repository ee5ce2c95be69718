"""`python -m lesion` is the `lesion` command."""

from lesion.cli import main

main()
