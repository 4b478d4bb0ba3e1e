"""The exact laws of a discrete step: what each optimizer does to the norm of a layer, and the rounding it is known to.

For the square loss ``L = mean ||g - y||^2`` of a bias-free network whose outputs are homogeneous of degree d_k in the
weights of layer k, ``<W_k, dL/dW_k> = 2 d_k (q - a)`` (CBMM Memo 112, equation (2), where d_k = 1). So a step of size
eta obeys, without any approximation, under gradient descent on the full set or on batches

    rho_k^2(t+1) = rho_k^2(t) + 4 eta d_k (a_b - q_b) + eta^2 ||G_k||^2

and under weight normalisation ``gamma_k(t+1) = gamma_k + (2 eta d_k / gamma_k)(a_b - q_b)``, gamma_k = rho_k.
The first two terms are the memo's flow, equation (3) and Lemma 1; the last is what finite steps add. For any other loss
``<W_k, dL/dW_k> = d_k c_b`` with c_b = mean <dL/dg, g> over the batch, by the chain rule and Euler's theorem; so -c_b/2
stands for a_b - q_b in every law. Weight decay and momentum are derived at ``_decay`` and ``_heavy_ball``. Norms that are
set after each step, by ``optimizer.kind: norm-control``, obey the laws from ``_held`` on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from rhotrace.theory import norm_dynamics

Floats = NDArray[np.float64]

# Largest residual relative to rho_k^2 that the rounding of weights and gradients explains.
ROUNDING = {"float32": 2e-6, "float64": 4e-14}


@dataclass(frozen=True)
class Recorded:
    """What a run recorded of its steps; n steps, M members, L layers.

    Attributes:
        rho_k: layer norms, (n, M, L).
        grad_norm: ||G_k||, (n, M, L).
        drive: d_k (a_b - q_b), or -d_k c_b/2, of every step but the last, (n - 1, M, 1 or L).
        eta: learning rate of every step but the last, broadcastable to that shape.
        read: what else the law reads, by name: quantities (n, M, L), options as ``eta``, zero where the run has none,
            and options of ``optimizer.norms`` as they are, NaN for null.
        dtype: of the weights.
        first: steps of the run before these.
        start: layer norms before the first step of the run, (M, L).
    """

    rho_k: Floats
    grad_norm: Floats
    drive: Floats
    eta: Floats
    read: Mapping[str, Floats]
    dtype: str
    first: int
    start: Floats

    @property
    def taken(self) -> Floats:
        """Steps taken by the end of every step but the last, (n - 1, 1, 1)."""
        return self.first + np.arange(1.0, len(self.rho_k))[:, None, None]


@dataclass(frozen=True)
class Step:
    """What a law says of every step but the last, each broadcastable to (steps - 1, M, L).

    Attributes:
        square: rho_k^2 after the step.
        flow: the memo's flow term of its change.
        finite: the other terms of it: what finite steps add, and weight decay or momentum; zero where there is none.
        scale: the largest term, to which rounding is relative.
    """

    square: Floats
    flow: Floats
    finite: Floats
    scale: Floats


@dataclass(frozen=True)
class StepLaw:
    """What one step of an optimizer does to rho_k, exactly.

    Attributes:
        name: key in ``LAWS``.
        says: the law as a formula.
        rest: where the change comes from that the flow does not make; empty where there is none.
        predict: what the law says of recorded steps.
        quantities: that it reads beside rho_k, ||G_k|| and the sums of each step's batch.
        options: per-member options that it reads, from the run file's datasets of these names; zero without one.
        norms: options of ``optimizer.norms`` that it reads, from the recipe.
        whole: the norm of each layer after a step depends on those of all layers.
    """

    name: str
    says: str
    rest: str
    predict: Callable[[Recorded], Step]
    quantities: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    whole: bool = False


def _flow(run: Recorded) -> Floats:
    """The memo's flow term, (n - 1, M, L); a whole array, as numpy takes three times as long for what it repeats over layers."""
    flow, layers = 4 * run.eta * run.drive, run.rho_k.shape[2]
    return flow if flow.shape[2] == layers else np.repeat(flow, layers, axis=2)


def _descent(run: Recorded) -> Step:
    square = run.rho_k**2
    flow = _flow(run)
    finite = (run.eta * run.grad_norm[:-1]) ** 2
    # A step may be far larger than what it starts from; its rounding is that of its largest term.
    scale = np.maximum(np.maximum(square[:-1], square[1:]), np.maximum(np.abs(flow), finite))
    return Step(square[:-1] + flow + finite, flow, finite, scale)


def _decay(run: Recorded) -> Step:
    """Weight decay lambda, W <- W - eta (G + lambda W) = (1 - eta lambda) W - eta G.

    Squared, with <W_k, G_k> = 2 d_k (q_b - a_b):

        rho_k^2(t+1) = (1 - eta lambda)^2 rho_k^2 + 4 eta d_k (1 - eta lambda)(a_b - q_b) + eta^2 ||G_k||^2

    In the flow d(rho_k^2)/dt = 4 d_k (a - q) - 2 lambda rho_k^2. So d rho_k/dt = 0 where a - q = lambda rho_k^2/(2 d_k):
    rho_eq, at which a = q, is not where the norms come to rest, but rho/rho_eq = q/a = 1 - lambda rho_k^2/(2 d_k a) is. All
    rho_k^2/d_k are equal there, for their differences decay as exp(-2 lambda t): decay balances the layers. With degree
    1 and equal norms, rho = A/B - (lambda/2B) rho^(2/L - 1): A/(B + lambda/2) for L = 1, (A - lambda/2)/B for L = 2, and
    for L > 2 a stable and an unstable rest while lambda is small, and rho = 0 alone where it is large.
    """
    square, shrunk = run.rho_k**2, 1 - run.eta * run.read["weight_decay"]
    flow = _flow(run)
    kept, driven, finite = shrunk**2 * square[:-1], shrunk * flow, (run.eta * run.grad_norm[:-1]) ** 2
    scale = _largest(square[:-1], square[1:], kept, driven, finite)
    return Step(kept + driven + finite, flow, kept - square[:-1] + driven - flow + finite, scale)


def _heavy_ball(run: Recorded) -> Step:
    """Momentum beta, u(t+1) = beta u(t) + G + lambda W(t) from u(0) = 0, and W(t+1) = W(t) - eta u(t+1).

    Squared, ``rho_k^2(t+1) = rho_k^2 - 2 eta <W_k(t), u_k(t+1)> + eta^2 ||u_k(t+1)||^2``, where homogeneity gives
    ``<W_k(t), u_k(t+1)> = beta <W_k, u_k>(t) + 2 d_k (q_b - a_b) + lambda rho_k^2``. So

        rho_k^2(t+1) = rho_k^2 + 4 eta d_k (a_b - q_b) - 2 eta (beta <W_k, u_k> + lambda rho_k^2) + eta^2 ||u_k(t+1)||^2

    in the traced <W_k, u_k> before the step and ||u_k|| before the next one. Momentum does not move the equilibrium, for
    u = 0 at rest: without weight decay a = q there.
    """
    square, eta, read = run.rho_k**2, run.eta, run.read
    flow = _flow(run)
    carried = -2 * eta * read["momentum"] * read["velocity_along"][:-1]
    decayed = -2 * eta * read["weight_decay"] * square[:-1]
    finite = (eta * read["velocity_norm"][1:]) ** 2
    scale = _largest(square[:-1], square[1:], flow, carried, finite)
    return Step(square[:-1] + flow + carried + decayed + finite, flow, carried + decayed + finite, scale)


def _weight_norm(run: Recorded) -> Step:
    square = run.rho_k**2
    grown = (run.rho_k[:-1] + 2 * run.eta / run.rho_k[:-1] * run.drive) ** 2
    grown = np.where(lost_directions(run.rho_k, run.read["v_norm"], run.dtype)[1:], np.nan, grown)
    flow = _flow(run)
    # <V, G> is rounded relative to ||G||, which a diverging network makes far larger than the norms.
    scale = _largest(square[:-1], square[1:], run.eta * run.grad_norm[:-1] * run.rho_k[1:])
    return Step(grown, flow, np.zeros_like(square[1:]), scale)


def lost_directions(rho_k: Floats, v_norm: Floats, dtype: str) -> NDArray[np.bool_]:
    """Where a diverging network has lost a layer's direction under weight normalisation, (n, M, L).

    ||v||^2 is beyond the largest number of the weights' type there, so that W = gamma v/||v|| = 0, and rho_k is not |gamma|.
    """
    return np.asarray((rho_k == 0) & ~(v_norm < np.sqrt(np.finfo(dtype).max)))


def _held(run: Recorded) -> Step:
    square = run.rho_k**2
    nothing = np.zeros_like(square[1:])
    return Step(square[:-1], nothing, nothing, np.maximum(square[:-1], square[1:]))


def _set(run: Recorded, norms: Floats, *terms: Floats) -> Step:
    """A step that sets the norms; none of their change is called flow."""
    square = norms**2
    nothing = np.zeros_like(run.rho_k[1:])
    return Step(square, nothing, nothing, _largest(run.rho_k[:-1] ** 2, run.rho_k[1:] ** 2, square, *terms))


def _linear_norms(run: Recorded) -> Step:
    return _set(run, run.start * (1 + (run.read["factor"] - 1) * np.minimum(run.taken / run.read["steps"], 1)))


def _step_norms(run: Recorded) -> Step:
    passed = (run.taken >= run.read["milestones"]).sum(axis=2, keepdims=True)
    return _set(run, run.start * run.read["factor"] ** passed)


def _ivanov_norms(run: Recorded) -> Step:
    free = _descent(run)
    norms = np.sqrt(free.square)
    log_rho = np.log(norms).sum(axis=2, keepdims=True)
    shrunk = np.minimum((np.log(run.read["C"]) - log_rho) / norms.shape[2], 0)
    return _set(run, norms * np.exp(shrunk), free.scale)


def _closed_form_norms(run: Recorded) -> Step:
    """Equation (5) with given A and B from norm to norm: ``time_to_reach`` of the recorded norm, compared with eta.

    Their difference times the speed of equation (5) is by how much the norm is off, relative to its distance from
    equilibrium. That avoids an inversion of the closed form. At equilibrium, where the time is not finite, the norm stays.
    """
    A, B, depth = run.read["A"], run.read["B"], run.rho_k.shape[2]
    r = np.exp(np.log(run.rho_k).mean(axis=2, keepdims=True))
    before, after = r[:-1], r[1:]
    late = norm_dynamics.time_to_reach(after, before, A=A, B=B, depth=depth) - run.eta
    equilibrium = (A / B) ** (1 / depth)
    near = np.abs(before / equilibrium - 1) < _AT_REST * np.sqrt(ROUNDING[run.dtype])
    speed = 2 * after ** (depth - 1) * (A - B * after**depth)
    settling = np.exp(-2 * depth * A * equilibrium ** (depth - 2) * run.eta)
    expected = np.where(near, equilibrium + (before - equilibrium) * settling, after - late * speed)
    return _set(run, run.rho_k[:-1] * expected / before)


def _tikhonov_norms(run: Recorded) -> Step:
    """The step of descent and then the penalty lambda rho^2, implicitly: a - q = lambda rho^2 at rest."""
    free, steps = _descent(run), run.read["steps"]
    t = run.taken - 1
    left = np.ones(t.shape) if np.isnan(steps) else np.maximum(1 - t / steps, 0) ** run.read["power"]
    before = run.rho_k[:-1]
    rho_over = np.exp(np.log(before).sum(axis=2, keepdims=True) - np.log(before))
    pull = 2 * run.eta * run.read["penalty"] * left * rho_over**2
    return _set(run, np.sqrt(free.square) / (1 + pull), free.scale / (1 + pull) ** 2)


_AT_REST = 0.1  # rho_k/its equilibrium - 1 over the root of rounding, below which equation (5) is linear to rounding


def _largest(*terms: Floats) -> Floats:
    return np.asarray(reduce(np.maximum, (np.abs(term) for term in terms)))


_DESCENT = "rho_k^2(t+1) = rho_k^2(t) + 4 eta d_k (a_b - q_b) + eta^2 ||G_k||^2"
_DECAY = "rho_k^2(t+1) = (1 - eta lambda)^2 rho_k^2(t) + 4 eta d_k (1 - eta lambda)(a_b - q_b) + eta^2 ||G_k||^2"
_HEAVY_BALL = (
    "rho_k^2(t+1) = rho_k^2(t) + 4 eta d_k (a_b - q_b) - 2 eta (beta <W_k, u_k> + lambda rho_k^2(t)) "
    "+ eta^2 ||u_k(t+1)||^2"
)
_HELD = "rho_k(t+1) = rho_k(t)"
_LINEAR = "rho_k(t) = rho_k(0) (1 + (factor - 1) min(t/steps, 1))"
_STEPS = "rho_k(t) = rho_k(0) factor^(milestones up to t)"
_IVANOV = "rho_k(t+1) = min(1, (C/rho)^(1/L)) times that of descent"
_CLOSED_FORM = "d rho/dt = 2 L rho^((2L-2)/L) (A - B rho) over a time eta, with rho_k/rho_j as at the start"
_TIKHONOV = "rho_k(t+1) = that of descent over 1 + 2 eta lambda(t) rho^2/rho_k^2"
_WEIGHT_NORM = "gamma_k(t+1) = gamma_k + (2 eta d_k / gamma_k)(a_b - q_b)"

LAWS: dict[str, StepLaw] = {
    law.name: law
    for law in (
        StepLaw("descent", _DESCENT, "finite steps", _descent),
        StepLaw("decay", _DECAY, "weight decay and finite steps", _decay, options=("weight_decay",)),
        StepLaw(
            "heavy-ball",
            _HEAVY_BALL,
            "momentum, weight decay and finite steps",
            _heavy_ball,
            quantities=("velocity_norm", "velocity_along"),
            options=("momentum", "weight_decay"),
        ),
        StepLaw("weight-norm", _WEIGHT_NORM, "", _weight_norm, quantities=("v_norm",)),
        StepLaw("held", _HELD, "", _held),
        StepLaw("linear-norms", _LINEAR, "", _linear_norms, norms=("factor", "steps")),
        StepLaw("step-norms", _STEPS, "", _step_norms, norms=("factor", "milestones")),
        StepLaw("ivanov-norms", _IVANOV, "", _ivanov_norms, norms=("C",), whole=True),
        StepLaw("closed-form-norms", _CLOSED_FORM, "", _closed_form_norms, norms=("A", "B"), whole=True),
        StepLaw("tikhonov-norms", _TIKHONOV, "", _tikhonov_norms, norms=("penalty", "steps", "power"), whole=True),
    )
}
