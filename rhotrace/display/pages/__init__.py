"""The pages of results, as blocks: one file per command, for the terminal and for HTML."""
