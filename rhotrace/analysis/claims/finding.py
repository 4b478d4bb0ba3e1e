"""The finding of a run on one statement, and the conditions under which a run can be judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.final_network import FinalNetwork
from rhotrace.runfile.reader import Trace

Floats = NDArray[np.float64]
Outcome = Literal["holds", "fails", "not testable here"]
Reason = Callable[[Trace], str]  # why a statement does not apply to a run; empty where it does

_NAMED = 5  # members that are named one by one


@dataclass(frozen=True)
class Finding:
    """What a run shows about one statement: the outcome, what was measured in words, and the tolerance."""

    outcome: Outcome
    measured: str
    tolerance: str = ""


def judged(good: bool, measured: str, tolerance: str) -> Finding:
    """Holds or fails, by what was measured."""
    return Finding("holds" if good else "fails", measured, tolerance)


def untestable(why: str) -> Finding:
    """Why the run does not decide the statement."""
    return Finding("not testable here", why)


def unless(why: Reason, claim: Callable[[Evidence], Finding]) -> Callable[[Evidence], Finding]:
    """A claim that is judged where it applies."""

    def conditional(evidence: Evidence) -> Finding:
        return untestable(reason) if (reason := why(evidence.trace)) else claim(evidence)

    return conditional


def of_sound(claim: Callable[[Evidence], Finding], except_for: Reason = lambda _: "") -> Callable[[Evidence], Finding]:
    """A claim about training, judged on the members that neither diverged nor died, where it applies."""

    def conditional(evidence: Evidence) -> Finding:
        if why := except_for(evidence.trace):
            return untestable(why)
        if not evidence.sound:
            return untestable(which_broke(evidence))
        finding, members = claim(evidence), evidence.trace.members
        if finding.outcome == "not testable here" or len(evidence.sound) == members:
            return finding
        some = f"in the {len(evidence.sound)} of {members} members that neither diverged nor died: "
        return replace(finding, measured=some + finding.measured)

    return conditional


def at_end(
    claim: Callable[[Evidence, FinalNetwork], Finding], except_for: Reason = lambda _: ""
) -> Callable[[Evidence], Finding]:
    """A claim about the network at its last snapshot; it is not testable without weights and data, or where it does not apply."""

    def conditional(evidence: Evidence) -> Finding:
        if why := except_for(evidence.trace):
            return untestable(why)
        end = evidence.end
        return untestable(end) if isinstance(end, str) else claim(evidence, end)

    return conditional


def after_T(claim: Callable[[Evidence], Finding]) -> Callable[[Evidence], Finding]:
    """A claim about the members that left the transient: a run that ends within it shows nothing of what comes after."""

    def conditional(evidence: Evidence) -> Finding:
        members = evidence.trace.members
        if evidence.run.no_equilibrium:
            return untestable(evidence.run.no_equilibrium)
        if not evidence.left:
            broken = {m: ended for m, (ended, _) in evidence.run.broken.items()}
            outcomes = Counter(str(broken.get(m, p.outcome)) for m, p in enumerate(evidence.run.passages))
            return untestable("no member has a T: " + "; ".join(f"{n} {o}" for o, n in outcomes.items()))
        finding = claim(evidence)
        some = "" if len(evidence.left) == members else f"in the {len(evidence.left)} of {members} members with a T: "
        return replace(finding, measured=some + finding.measured)

    return conditional


def columns(values: Floats, members: Sequence[int]) -> Floats:
    """Some members' columns; all of them are not copied."""
    return values if len(members) == values.shape[1] else values[:, list(members)]


def which_broke(evidence: Evidence) -> str:
    """Such as ``2 of 3 members diverged (member 0 from step 12 on, member 2 from step 14 on)``."""
    words, members = [], evidence.trace.members
    for ended in dict.fromkeys(ended for ended, _ in evidence.run.broken.values()):
        first = {m: step for m, (how, step) in evidence.run.broken.items() if how is ended}
        where = [f"member {m} from step {step} on" for m, step in first.items()]
        if len(where) > _NAMED:
            where = [f"the first from step {min(first.values())} on"]
        words.append(f"{len(first)} of {members} members {ended} ({', '.join(where)})")
    return "; ".join(words)
