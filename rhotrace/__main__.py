"""``python -m rhotrace``."""

from rhotrace.cli.app import main

main()
