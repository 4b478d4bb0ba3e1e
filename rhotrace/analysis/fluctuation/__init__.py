"""How far rho stays from rho_eq after the transient: of a series, a run, several runs."""
