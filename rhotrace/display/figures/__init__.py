"""Figures, one file per kind of result."""
