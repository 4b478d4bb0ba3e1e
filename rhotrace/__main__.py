"""``python -m rhotrace``."""

from rhotrace.cli import main

main()
