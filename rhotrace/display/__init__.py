"""Results as people read them: in a terminal, as figures, as HTML pages."""
