"""`python -m cli`, the same as `qnext`."""

from cli.main import main

main()
