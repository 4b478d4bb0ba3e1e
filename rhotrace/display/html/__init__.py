"""Self-contained HTML pages: the report and the live page of a run."""
