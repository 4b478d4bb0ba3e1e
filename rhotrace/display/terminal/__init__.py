"""Results as text in a terminal, one file per command."""
