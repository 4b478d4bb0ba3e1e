"""The fluctuation that minibatches should cause, predicted without a free parameter from snapshots.

At each snapshot in the window the network is linearised (``theory.linearised_sgd``) and driven by minibatches up to
the next snapshot. Its delta is measured as that of the run is: by its standard deviation about a line.

Before a prediction is given, the weights follow one such motion, and the network is linearised anew at each quarter of
it. The largest learning rate times curvature that it meets is ``reached``. Descent is unstable from 2 on: what the
linearised network leaves out then keeps the real one in bounds, so that it says nothing about its fluctuation. The
limit is lower than 2, because the curvature also grows between the quarters. It was chosen on some runs and tested on
others (benchmarks/README.md). The run after the snapshot plays no part in this number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.applicability import no_step_law, not_plain
from rhotrace.analysis.fluctuation.one_series import detrend
from rhotrace.analysis.rebuild_network import data_and_network
from rhotrace.analysis.run_series import RunSeries
from rhotrace.config.recipe import Recipe
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import Trace
from rhotrace.theory.linearised_sgd import frozen_std, replay, sharpness, tangent_factors, whole_kernel

if TYPE_CHECKING:
    import torch

    from rhotrace.models.datasets import Dataset
    from rhotrace.models.network import Network

Floats = NDArray[np.float64]

LARGEST = 8192  # outputs times samples: a kernel of half a GiB, and four times that while it is made
REACH = 2000  # evaluations in a stretch, beyond which the kernel of its start is no longer the network's
LIMIT = 1.5  # of ``Stretch.reached``, from which on there is no prediction
_SHORTEST = 50  # evaluations in a stretch
_MOST = 8  # stretches
_DRAWS = 2  # sequences of batches of their own, over which the predicted variance is averaged
_RENEWALS = 4  # linearisations anew along the motion that is followed
_OTHER_SEEDS = 2**62  # from here on: batches that no run saw


@dataclass(frozen=True)
class Stretch:
    """Prediction and measurement from one snapshot on. Standard deviations of delta about a line.

    Attributes:
        first: step of its first evaluation, at or after the snapshot.
        last: last step of the stretch.
        measured: in the run.
        predicted: by the tangent kernel, with batches drawn afresh; NaN where the linearised network diverges, 0 for
            a full batch, whose drift is no fluctuation.
        frozen: by the memo's equation with V at rest.
        correlation: of the run's delta with that of the linearised network under the run's own batches.
        sharpness: learning rate times the largest curvature, 2 eta lambda_1(K)/N; from 2 on it is unstable.
        reached: the largest sharpness along the predicted motion; infinite where it diverges, NaN for a full batch.
        holds: whether ``reached`` is below the limit. Where it is not, ``predicted`` is no prediction.
    """

    first: int
    last: int
    measured: float
    predicted: float
    frozen: float
    correlation: float
    sharpness: float
    reached: float
    holds: bool


@dataclass(frozen=True)
class Prediction:
    """One member's stretches, and their root mean squares over those in which the linearisation holds.

    Attributes:
        member: its number.
        stretches: all of them.
        measured: NaN, as what follows, where the linearisation holds in no stretch.
        predicted: by the tangent kernel.
        frozen: by the memo's equation with V at rest.
        correlation: mean over the stretches.
        sharpness: at the window's last snapshot.
        reached: the largest of all stretches.
        limit: of ``reached``, from which on the linearisation does not hold.
        held: number of stretches in which it holds.
    """

    member: int
    stretches: tuple[Stretch, ...]
    measured: float
    predicted: float
    frozen: float
    correlation: float
    sharpness: float
    reached: float
    limit: float
    held: int


def predict(run: RunSeries, windows: dict[int, tuple[int, int]]) -> dict[int, Prediction | str]:
    """Predicted and measured fluctuation of each member in its window (first and last step).

    Returns:
        By member: the prediction, or why there is none.

    Raises:
        AnalysisError: the data or the network is not available, or the training set is too large for a kernel.
    """
    trace = run.trace
    if why := run.no_equilibrium or no_step_law(trace) or not_plain(trace):
        raise AnalysisError(f"{trace.path}: --predict: {why}")
    recipe = trace.validated_recipe()
    again = data_and_network(trace, recipe)
    if isinstance(again, str):
        raise AnalysisError(f"{trace.path}: --predict: {again}; set RHOTRACE_DATA to the folder of the run's data")
    dataset, network = again
    if dataset.y.size > LARGEST:
        raise AnalysisError(
            f"{trace.path}: --predict: got {dataset.y.size} outputs on the training set, expected at most {LARGEST} "
            "(the tangent kernel has the square of it); lower data.train"
        )
    steps, deltas = run.steps, run.delta
    found: dict[int, Prediction | str] = {}
    for member, window in windows.items():
        starts = _stretches(trace.snapshot_steps(), window, trace.strides["full"])
        if not starts:
            found[member] = f"no snapshot with {_SHORTEST} evaluations after it in the window; raise record.snapshots"
            continue
        each = []
        for first, last in starts:
            rows = (steps >= first) & (steps <= last)
            point = _Linearised(trace, recipe, dataset, network, member, first)
            each.append(point.stretch(steps[rows], deltas[rows, member]))
        newest = max(step for step in trace.snapshot_steps() if step <= window[1] + 1)
        end = _Linearised(trace, recipe, dataset, network, member, newest) if newest > starts[-1][0] else point
        found[member] = _together(member, each, end.sharpness())
    return found


def _stretches(snapshots: Sequence[int], window: tuple[int, int], every: int) -> list[tuple[int, int]]:
    """First and last step of each stretch; every one begins at a snapshot and is long enough."""
    starts: list[int] = []
    for step in snapshots:
        if window[0] <= step <= window[1] - _SHORTEST * every and (
            not starts or step - starts[-1] >= _SHORTEST * every
        ):
            starts.append(step)
    if not starts:
        return []
    if len(starts) > _MOST:
        starts = [starts[i] for i in np.linspace(0, len(starts) - 1, _MOST).round().astype(int)]
    ends = [*(s - 1 for s in starts[1:]), window[1]]
    return [(s, min(e, s + REACH * every)) for s, e in zip(starts, ends, strict=True)]


class _Linearised:
    """One member's network linearised at a snapshot."""

    def __init__(
        self, trace: Trace, recipe: Recipe, dataset: Dataset, network: Network, member: int, step: int
    ) -> None:
        import torch

        self.recipe, self.member, self.step = recipe, member, step
        self.lr, self.minibatches = recipe.lr[member], recipe.optimizer.minibatches
        self.network, self.x = network, torch.as_tensor(dataset.x)
        self.weights = tuple(torch.as_tensor(W[member : member + 1]).double() for W in trace.snapshot(step))
        row = min(step, trace.steps - 1)  # after the last step there is none
        self.v_norm = trace.rows("v_norm", slice(row, row + 1))[0, member] if "v_norm" in trace else None
        self.y = dataset.y.T.astype(np.float64)
        self.g, self.rho_k, self.kernel = self._tangent(self.weights)

    def _tangent(self, weights: tuple[torch.Tensor, ...]) -> tuple[Floats, Floats, Floats]:
        """Outputs, layer norms and kernel at some weights."""
        import torch

        rho_k = np.array([float(W.square().sum().sqrt()) for W in weights])
        factors = tangent_factors(rho_k, self.v_norm)
        with torch.no_grad():
            g = self.network.forward(weights, self.x)[0].numpy()
        turning = self.network.tangent_kernel(weights, self.x, torch.as_tensor(factors)[None])[0].numpy()
        return g, rho_k, whole_kernel(turning, g, rho_k, factors)

    def stretch(self, steps: NDArray[np.int64], measured: Floats) -> Stretch:
        """Prediction over the evaluations at ``steps``, beside delta ``measured`` there."""
        samples, sharp = self.g.shape[1], self.sharpness()
        predicted, frozen, correlation, reached = 0.0, 0.0, np.nan, np.nan  # nothing disturbs a full batch
        if self.minibatches:
            h = (self.y * self.g - self.g**2).sum(axis=0)
            S, q = float(np.sum(self.rho_k**-2)), float(np.sum(self.g**2) / samples)
            frozen = frozen_std(lr=self.lr, S=S, q=q, step_variance=float(h.var()) / self.minibatches.size)
            seed = self.recipe.batch_seeds[self.member]
            fresh = [self._batches(_OTHER_SEEDS + _DRAWS * seed + draw, steps) for draw in range(_DRAWS)]
            reached = max(sharp, self._reached(fresh[0]))
            predicted = float(np.sqrt(np.mean([detrend(self._delta(batches, steps)).var() for batches in fresh])))
            own = self._delta(self._batches(seed, steps), steps)
            correlation = _correlation(detrend(own), detrend(measured))
        return Stretch(
            first=int(steps[0]),
            last=int(steps[-1]),
            measured=float(detrend(measured).std()),
            predicted=predicted,
            frozen=frozen,
            correlation=correlation,
            sharpness=sharp,
            reached=reached,
            holds=not reached >= LIMIT,
        )

    def sharpness(self) -> float:
        """Learning rate times the largest curvature of the linearised loss."""
        return sharpness(self.kernel, self.g.shape[1], self.lr)

    def _batches(self, seed: int, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Batches of a seed, from the snapshot to the last of some steps."""
        if self.minibatches is None:
            raise ValueError("a full batch has no minibatches to replay")
        return self.minibatches.indices([seed], self.step, int(steps[-1]) + 1, samples=self.g.shape[1])[:, 0]

    def _delta(self, batches: NDArray[np.int64], steps: NDArray[np.int64]) -> Floats:
        """delta of the linearised network at some steps."""
        return replay(self.kernel, self.g, self.y, batches, self.lr).delta[steps - self.step]

    def _reached(self, batches: NDArray[np.int64]) -> float:
        """The largest sharpness at the ends of the quarters of a motion; infinite where it diverges."""
        weights, rho_k, g, kernel = self.weights, self.rho_k, self.g, self.kernel
        largest = 0.0
        for quarter in np.array_split(batches, _RENEWALS):
            drive = replay(kernel, g, self.y, quarter, self.lr).drive
            if drive is None:
                return np.inf
            weights = moved(self.network, weights, self.x, drive, tangent_factors(rho_k, self.v_norm))
            g, rho_k, kernel = self._tangent(weights)
            largest = max(largest, sharpness(kernel, g.shape[1], self.lr))
        return largest


def moved(
    network: Network, weights: tuple[torch.Tensor, ...], x: torch.Tensor, drive: Floats, factors: Floats
) -> tuple[torch.Tensor, ...]:
    """The weights of one member after a replay of its linearised network.

    Args:
        network: of the member.
        weights: at the snapshot, (1, out, fan_in) each.
        x: training inputs.
        drive: of the replay, (CN,).
        factors: t_k, (L,).
    """
    import torch
    from torch.func import vjp

    pulled: Any = vjp(lambda own: network.forward(own, x), weights)
    outputs, pull = pulled
    (gradients,) = pull(torch.as_tensor(drive).reshape(outputs.shape))
    after = []
    for W, G, t in zip(weights, gradients, factors.tolist(), strict=True):
        along = W * ((W * G).sum() / W.square().sum())
        after.append(W - along - t * (G - along))
    return tuple(after)


def _correlation(first: Floats, second: Floats) -> float:
    scale = first.std() * second.std()
    return float(np.mean(first * second) / scale) if scale > 0 else np.nan


def _together(member: int, each: Sequence[Stretch], sharpest: float) -> Prediction:
    held = [s for s in each if s.holds]

    def average(values: Sequence[float]) -> float:
        return float(np.mean(values)) if held else np.nan

    return Prediction(
        member,
        tuple(each),
        measured=float(np.sqrt(average([s.measured**2 for s in held]))),
        predicted=float(np.sqrt(average([s.predicted**2 for s in held]))),
        frozen=float(np.sqrt(average([s.frozen**2 for s in held]))),
        correlation=average([s.correlation for s in held]),
        sharpness=sharpest,
        reached=max(s.reached for s in each),
        limit=LIMIT,
        held=len(held),
    )
