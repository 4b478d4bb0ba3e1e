"""The transient time T: measured, fitted, simulated, and against rho_k(0)."""
