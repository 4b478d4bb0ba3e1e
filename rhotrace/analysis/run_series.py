"""One run, read once: its series at the steps that have full-set sums, what became of each member, and the step audit.

Everything that examines a run takes a ``RunSeries``. Each array is read when it is first needed and then shared, and
the threshold theta is stated in one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis import applicability
from rhotrace.analysis.plateaus import Plateau, plateaus
from rhotrace.analysis.transient import transient_time
from rhotrace.analysis.transient.closed_form_fit import Series
from rhotrace.analysis.transient.transient_time import (
    FastestGrowth,
    MemberTransient,
    Outcome,
    Passage,
    TransientFit,
    inapplicable,
)
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import Trace
from rhotrace.statistics.intervals import NONE
from rhotrace.theory.norm_dynamics import THETA
from rhotrace.theory.step_identity import Audit, Tally, identity

Floats = NDArray[np.float64]

ALL = slice(None)
_COLUMNS = ("rho_k", "log_rho", "rho_eq_over_rho", "a", "q", "loss")  # which a series keeps under these names
PIECE_BYTES = 1 << 20  # of the layer norms


@dataclass(frozen=True, eq=False)
class RunSeries:
    """One run's series, with the threshold of its transient; n rows, M members, L layers.

    Attributes:
        trace: the run, open.
        theta: the transient ends at rho = theta rho_eq.
    """

    trace: Trace
    theta: float = THETA

    @classmethod
    def of(cls, run: Trace | RunSeries, theta: float | None = None) -> RunSeries:
        """A run as its series; one that is given as such is kept, unless another theta is asked for."""
        if not isinstance(run, RunSeries):
            return cls(run, THETA if theta is None else theta)
        return run if theta is None or theta == run.theta else cls(run.trace, theta)

    # --- the series --------------------------------------------------------------------------------------------

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Step of each row, (n,)."""
        every = self.trace.strides["full"]
        return np.arange(self.trace.layout.rows("full", self.trace.steps), dtype=np.int64) * every

    @cached_property
    def log_rho(self) -> Floats:
        """Logarithm of the product norm, (n, M)."""
        return self.trace.aligned("log_rho")

    @cached_property
    def rho_k(self) -> Floats:
        """Layer norms, (n, M, L)."""
        return self.trace.aligned("rho_k")

    @cached_property
    def rho_eq_over_rho(self) -> Floats:
        """a/q, (n, M); NaN where the run has none."""
        return self._sum("rho_eq_over_rho")

    @cached_property
    def a(self) -> Floats:
        """mean(y g), (n, M); NaN where the run has none."""
        return self._sum("a")

    @cached_property
    def q(self) -> Floats:
        """mean(g^2), (n, M); NaN where the run has none."""
        return self._sum("q")

    def _sum(self, name: str) -> Floats:
        if name in self.trace:
            return self.trace[name]
        return np.full((len(self.steps), self.trace.members), np.nan)

    @cached_property
    def loss(self) -> Floats:
        """Loss on the training set, (n, M); NaN where it was not recorded."""
        return self._sum("loss")

    @cached_property
    def delta(self) -> Floats:
        """log(rho/rho_eq), (n, M); NaN where a <= 0."""
        ratio = self.rho_eq_over_rho
        with np.errstate(all="ignore"):
            found = np.where(ratio > 0, ratio, np.nan)
            np.log(found, out=found)
            return np.negative(found, out=found)

    @cached_property
    def members(self) -> tuple[Series, ...]:
        """Each member's own columns; views, not copies."""
        return tuple(
            Series(
                steps=self.steps,
                log_rho=self.log_rho[:, m],
                rho_eq_over_rho=self.rho_eq_over_rho[:, m],
                a=self.a[:, m],
                q=self.q[:, m],
                depth=self.trace.depth,
                lr=float(lr),
                elapsed=None if self.elapsed is None else self.elapsed[:, m],
            )
            for m, lr in enumerate(self.lr)
        )

    def every_step(self, name: str, which: slice = ALL) -> Floats:
        """A quantity at every step, or at some; what this series has already is not read again.

        Args:
            name: of the quantity.
            which: the steps, without a stride.
        """
        known = self.__dict__.get(name) if self.trace.strides["full"] == 1 and name in _COLUMNS else None
        if known is None and which == ALL and self.trace.strides["full"] == 1 and name in ("rho_k", "log_rho"):
            known = getattr(self, name)
        if known is not None:
            return np.asarray(known if which == ALL else known[which])
        if which == ALL:
            return self.trace[name]
        if self._recent.get(name, (ALL,))[0] != which:
            self._recent[name] = which, self.trace.rows(name, which)
        return self._recent[name][1]

    @cached_property
    def start(self) -> Floats:
        """Layer norms at the run's start, (M, L)."""
        return np.asarray(self.trace.rows("rho_k", slice(0, 1))[0])

    @cached_property
    def _recent(self) -> dict[str, tuple[slice, Floats]]:
        """The last piece that was read of each quantity, for all that go through the run together."""
        return {}

    def pieces(self) -> Iterator[slice]:
        """The run's steps in pieces that fit in the processor's cache, each beginning with the last step of the one before."""
        size = max(2, min(self.trace.steps, PIECE_BYTES // (8 * self.trace.members * self.trace.depth)))
        for first in range(0, max(self.trace.steps - 1, min(self.trace.steps, 1)), size):
            yield slice(first, min(first + size + 1, self.trace.steps))

    def forget(self, *names: str) -> None:
        """Drops series that are no longer needed, so that a long run's do not fill the memory; they are read again if asked for."""
        for name in names:
            self.__dict__.pop(name, None)

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What figures have computed of the run, reduced to what can be seen, to draw it again."""
        return {}

    # --- the members -------------------------------------------------------------------------------------------

    @cached_property
    def lr(self) -> Floats:
        """Learning rates, (M,)."""
        return self.trace["lr"]

    @cached_property
    def rates(self) -> Floats:
        """Learning rates of the steps: (M,), or (steps, M) under a schedule."""
        return self.every_step("lr_step") if applicability.is_scheduled(self.trace) else self.lr

    @cached_property
    def elapsed(self) -> Floats | None:
        """Time of each row, the sum of the learning rates of the steps before it, (n, M); None where it is lr x steps."""
        if self.rates.ndim == 1:
            return None
        return np.asarray((np.cumsum(self.rates, axis=0) - self.rates)[self.steps])

    def time_of(self, member: int, step: float) -> float:
        """Time of a step, lr x steps or the sum of the learning rates under a schedule."""
        if self.elapsed is None:
            return float(step * float(self.lr[member]))
        return self.members[member].time_at(step)

    @cached_property
    def seeds(self) -> list[int]:
        """Seed of each member's weights."""
        return [int(seed) for seed in self.trace["seed"]]

    @cached_property
    def starts(self) -> list[str]:
        """Initial scale of each member, such as ``rho_k(0) 2.5``."""
        return self._settings(initial=True)

    @cached_property
    def labels(self) -> list[str]:
        """What distinguishes each member apart from its seeds: initial scale, learning rate and other options."""
        pairs = zip(self.starts, self._settings(initial=False), strict=True)
        return [", ".join(part for part in pair if part) for pair in pairs]

    def _settings(self, *, initial: bool) -> list[str]:
        shown = self.trace.layout.per_member.items()
        found = [(symbol, self.trace[name]) for name, symbol in shown if name.startswith("init_") == initial]
        return [", ".join(f"{symbol} {values[m]:g}" for symbol, values in found) for m in range(self.trace.members)]

    def groups(self) -> dict[str, list[int]]:
        """The members that differ in nothing but their seeds, by what they share that the others do not."""
        labels = dict.fromkeys(self.labels)
        if len(labels) == 1:
            return {"": list(range(len(self.labels)))}
        common = set.intersection(*(set(label.split(", ")) for label in labels))
        return {
            ", ".join(part for part in label.split(", ") if part not in common): [
                m for m, own in enumerate(self.labels) if own == label
            ]
            for label in labels
        }

    @property
    def batch_size(self) -> int | None:
        """Samples in a step; None for the full training set."""
        size = self.trace.recipe["optimizer"].get("batch_size") if self.trace.facts.minibatches else None
        return None if size is None else int(size)

    # --- what became of them -----------------------------------------------------------------------------------

    @cached_property
    def no_equilibrium(self) -> str:
        """Why the run has no rho_eq, and so no transient time; empty where it has."""
        return applicability.no_equilibrium(self.trace)

    @cached_property
    def passages(self) -> tuple[Passage, ...]:
        """Whether and when each member left its transient."""
        if self.no_equilibrium:
            return (Passage(Outcome.INAPPLICABLE, np.nan, 0, NONE),) * self.trace.members
        ratio, q, log_rho = self.rho_eq_over_rho, self.q, self.log_rho
        return tuple(
            transient_time.passage(
                self.steps,
                ratio[:, m],
                q[:, m],
                log_rho[:, m],
                theta=self.theta,
                noisy=self.trace.facts.minibatches,
            )
            for m in range(self.trace.members)
        )

    @cached_property
    def transient(self) -> TransientFit:
        """T of each member by every definition, and over members; without the closed form."""
        if self.no_equilibrium:
            return inapplicable(self.theta, self.no_equilibrium, self.labels, self.seeds)
        pairs = zip(self.left, self.inflections, strict=True)
        each = tuple(replace(one, T_inflection=T_inflection) for one, T_inflection in pairs)
        return TransientFit(self.theta, each, transient_time.pool(each, self.labels, self.seeds))

    @cached_property
    def left(self) -> tuple[MemberTransient, ...]:
        """Each member's part of ``transient``, but for the step of fastest growth, which needs the layer norms."""
        each = tuple(
            transient_time.measure(m, one, theta=self.theta, fit=False, passed=passed, T_loss=T_loss)
            for m, (one, passed, T_loss) in enumerate(zip(self.members, self.passages, self.loss_times, strict=True))
        )
        if why := applicability.no_flow(self.trace):
            each = tuple(replace(one, T_constant=np.nan, driven=None, no_fit=why) for one in each)
        return each

    @cached_property
    def loss_times(self) -> list[float]:
        """First step from which each member's loss is below half its value for g = 0; see ``transient_time.loss_time``."""
        return [transient_time.loss_time(self.steps, self.loss[:, m]) for m in range(self.trace.members)]

    @cached_property
    def inflections(self) -> list[float]:
        """Step at which each member's log rho grows fastest; NaN where it never grows."""
        found = FastestGrowth(self.trace.members)
        if self.trace.strides["full"] == 1:
            for which in self.pieces():
                found.extend(self.steps[which], self.every_step("rho_k", which), self.a[which], self.q[which])
        else:
            found.extend(self.steps, self.rho_k, self.a, self.q)
        return found.steps

    @cached_property
    def fitted(self) -> TransientFit:
        """As ``transient``, with the closed form fitted to each member."""
        if applicability.no_flow(self.trace):
            return self.transient
        pairs = zip(self.transient.each, self.members, strict=True)
        return replace(
            self.transient,
            each=tuple(transient_time.with_fit(found, series, theta=self.theta) for found, series in pairs),
        )

    @cached_property
    def plateaus(self) -> tuple[tuple[Plateau, ...], ...]:
        """The plateaus of each member's loss."""
        error = self._sum("error")
        return tuple(plateaus(self.steps, self.loss[:, m], error[:, m]) for m in range(self.trace.members))

    @cached_property
    def broken(self) -> dict[int, tuple[Outcome, int]]:
        """The members that diverged or died, before or after T, which of the two, and the first step where they have."""
        finite, silent = np.isfinite(self.log_rho), self.q == 0
        for name, values in (("loss", self.loss), ("q", self.q)):
            if name in self.trace:
                finite &= np.isfinite(values)
        found = {}
        for m in range(self.trace.members):
            if not finite[:, m].all():
                found[m] = Outcome.DIVERGED, int(self.steps[int(np.argmin(finite[:, m]))])
            elif silent[-1:, m].any():
                heard = np.flatnonzero(~silent[:, m])
                found[m] = Outcome.DEAD, int(self.steps[heard[-1] + 1 if len(heard) else 0])
        return found

    # --- the steps ---------------------------------------------------------------------------------------------

    @cached_property
    def no_audit(self) -> str:
        """Why there is no audit of the steps; empty where there is one."""
        return applicability.no_step_law(self.trace) or ("" if self.audit else "fewer than two finite steps")

    @cached_property
    def audit(self) -> Audit | None:
        """The discrete step identity at every step; None where ``no_audit`` says why."""
        growth = None
        if self.trace.strides["full"] == 1 and not self.no_equilibrium and "inflections" not in self.__dict__:
            growth = FastestGrowth(self.trace.members)
        found = self.audit_of(range(self.trace.members), growth)
        if growth and found:  # the layer norms of a long run are read once for both
            self.__dict__["inflections"] = growth.steps
        return found

    def audit_of(self, members: Sequence[int], growth: FastestGrowth | None = None) -> Audit | None:
        """The audit of some members, in the layers that the outputs are homogeneous in; ``growth`` is shown their norms too."""
        if applicability.no_step_law(self.trace):
            return None
        tally = Tally(self.trace.steps, **self._terms)
        for which in self.pieces():
            terms = self._identity(members, which)
            tally.extend(**terms)
            if growth:
                growth.extend(self.steps[which], terms["rho_k"], self.a[which], self.q[which])
        if (found := tally.audit()) is None:
            return None
        step, member, layer = found.where
        return replace(found, where=(step, members[member], self._homogeneous[layer - 1] + 1))

    def step_residuals(self, which: slice) -> Floats:
        """By how much each step of a piece misses the identity, relative, in its worst member and layer; NaN where it is finite in none."""
        start = self.start[:, self._homogeneous]
        terms = self._identity(range(self.trace.members), which)
        residual, *_ = identity(**terms, **self._terms, first=which.start, start=start)
        residual[~np.isfinite(residual)] = np.nan
        return np.asarray(np.fmax.reduce(residual, axis=(1, 2)))

    @cached_property
    def _homogeneous(self) -> list[int]:
        return [k for k, block in enumerate(self.trace.layout.layers) if block.degree is not None]

    @cached_property
    def _terms(self) -> dict[str, Any]:
        """What the identity of every step is made of, by the names of the arguments."""
        degree = np.array([self.trace.layout.layers[k].degree for k in self._homogeneous])
        return {"dtype": self.trace.attributes["dtype"], "law": applicability.law_of(self.trace), "degree": degree}

    def _identity(self, members: Sequence[int], which: slice) -> dict[str, Any]:
        """What the identity of some steps is made of, by the names of the arguments."""
        trace, law = self.trace, applicability.law_of(self.trace)
        arrays = {name: self.every_step(name, which) for name in ("rho_k", "grad_norm")}
        if "batch_a" in trace:
            arrays |= {name: self.every_step(name, which) for name in ("batch_a", "batch_q")}
        else:
            pull = self.every_step("batch_c", which)
            arrays |= {"batch_a": -pull / 2, "batch_q": np.zeros_like(pull)}
        lr = self.rates if self.rates.ndim == 1 else self.rates[which]
        if "lr_layer" in trace:
            lr = self.every_step("lr_layer", which)[:, :, self._homogeneous]
        read = {name: self.every_step(name, which) for name in law.quantities} if law else {}
        if len(self._homogeneous) < trace.depth:
            arrays |= {name: arrays[name][:, :, self._homogeneous] for name in ("rho_k", "grad_norm")}
            read = {name: values[:, :, self._homogeneous] for name, values in read.items()}
        options = {name: trace[name] for name in law.options if name in trace} if law else {}
        if len(members) < trace.members:
            chosen = list(members)
            arrays, read = ({name: values[:, chosen] for name, values in own.items()} for own in (arrays, read))
            options, lr = {name: values[chosen] for name, values in options.items()}, _of_members(lr, chosen)
        if law and law.norms:
            options |= {name: trace.recipe["optimizer"]["norms"].get(name) for name in law.norms}
        return {**arrays, "lr": lr, "read": {**read, **options}}


def _of_members(lr: Floats, members: list[int]) -> Floats:
    """Learning rates of some members: of (M,), (steps, M) or (steps, M, L)."""
    return lr[members] if lr.ndim == 1 else lr[:, members]


def require_steps(trace: Trace) -> None:
    """Raises AnalysisError where fewer than two steps have been committed."""
    if trace.steps < 2:
        raise AnalysisError(
            f"{trace.path}: got {trace.steps} committed steps, expected at least 2; let the run train for longer"
        )
