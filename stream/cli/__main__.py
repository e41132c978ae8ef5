"""`python -m stream.cli` is the command `tidewise`."""

from stream.cli import main

main()
