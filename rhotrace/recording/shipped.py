"""The modules whose quantities come with RhoTrace; imported for what they register, each after the one before it."""

from __future__ import annotations

from rhotrace.recording import (
    alignment,
    collapse,
    curvature,
    distance,
    effective_dimension,
    first_layer,
    hessian_trace,
    noise,
    normalisation,
    quantities,
    spectra,
    stable_rank,
)

REGISTERED = (
    quantities,
    curvature,
    spectra,
    normalisation,
    first_layer,
    stable_rank,
    alignment,
    distance,
    hessian_trace,
    noise,
    effective_dimension,
    collapse,
)
