"""The weights before the first step: a function of the layers' shapes and a seed, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from rhotrace.models.component import Component, PerMember, Registry
from rhotrace.models.network import Block

Floats = NDArray[np.float64]


class Initialiser(Component):
    """An initialiser's section of a recipe, and what it does."""

    kind: str

    def weights(self, layers: Sequence[Block], seed: int) -> list[Floats]:
        """One member's weights.

        Args:
            layers: the network's weight blocks.
            seed: of this member.

        Returns:
            An array (out, fan_in) for each layer.
        """
        raise NotImplementedError


INITIALISERS: Registry[Initialiser] = Registry("init")


@INITIALISERS.register
class EqualNorms(Initialiser):
    """Gaussian directions, each layer scaled to the same Frobenius norm (the memo's assumption, section 2.2).

    Attributes:
        rho_k: Frobenius norm of every layer at the start.
    """

    kind: Literal["equal-norms"] = "equal-norms"
    rho_k: Annotated[float, Ge(1e-12), Le(1e12), PerMember("initial layer norm", "rho_k(0)")]

    def weights(self, layers: Sequence[Block], seed: int) -> list[Floats]:
        """See ``Initialiser.weights``."""
        return [self.rho_k * W / np.linalg.norm(W) for W in gaussian(layers, seed)]


@INITIALISERS.register
class He(Initialiser):
    """Gaussian entries of variance ``scale^2 2/fan_in`` (He et al., arXiv:1502.01852, equation (10), times a factor).

    Attributes:
        scale: factor on every weight.
    """

    kind: Literal["he"] = "he"
    scale: Annotated[float, Gt(0), PerMember("He factor", "He scale")] = 1.0

    def weights(self, layers: Sequence[Block], seed: int) -> list[Floats]:
        """See ``Initialiser.weights``."""
        return [self.scale * np.sqrt(2 / W.shape[1]) * W for W in gaussian(layers, seed)]


@INITIALISERS.register
class AsBuilt(Initialiser):
    """The weights as a network of ``kind: module`` initialises itself under the member's seed, times a factor.

    Attributes:
        scale: factor on every weight.
    """

    kind: Literal["module"] = "module"
    scale: Annotated[float, Gt(0), PerMember("factor on the module's weights", "scale")] = 1.0

    def of(self, built: Sequence[Floats]) -> list[Floats]:
        """One member's weights, from those that the module starts with."""
        return [self.scale * W for W in built]


def gaussian(layers: Sequence[Block], seed: int) -> list[Floats]:
    """Standard normal entries, (out, fan_in) for each layer.

    Each layer has its own random stream, so that the k-th layer starts alike in networks of any depth, if its shape is the same.
    """
    return [np.random.default_rng([seed, 3, k]).standard_normal(block.matrix) for k, block in enumerate(layers)]
