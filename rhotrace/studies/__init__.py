"""Studies: questions about the dynamics of norms, each with the runs that answer it, the analysis and the answer."""
