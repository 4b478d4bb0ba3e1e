"""T against rho_k(0) and depth: the law of the exponents, what moves them, and the clock of the transient."""
