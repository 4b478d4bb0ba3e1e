"""How far the first layer's pre-activations are off where a run follows them from step to step.

Such a run asks for it, as in ``record: {every: {first_layer: 64}}``; see ``rhotrace.training.first_layer``.
"""

from __future__ import annotations

from rhotrace.recording import normalisation
from rhotrace.recording.quantity import Cadence, Quantity, register

_BEFORE = normalisation  # whose rows come first in every table

FIRST_LAYER = "first_layer"  # the cadence, and the name of what is kept in the optimizer's state

register(
    Quantity(
        "first_layer_drift", "|dz_1|", ("member",), "1", None, FIRST_LAYER,
        "error of the followed W_1 x before it is computed anew, relative to the largest row of W_1 times the largest x",
        measure=lambda moment: moment.state[FIRST_LAYER][1][:, 0, 0], applies=lambda run: FIRST_LAYER in run.state,
    ),
    Cadence(FIRST_LAYER, None, "the first layer on the training set computed anew, and followed between; see recipes"),
)  # fmt: skip
