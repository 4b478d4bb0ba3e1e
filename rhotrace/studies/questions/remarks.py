"""Remarks 1 to 3 of the memo, on runs of very different kinds: what `rhotrace audit` says of each."""

from __future__ import annotations

from collections import Counter

from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.findings import CLAIMS
from rhotrace.display.blocks import table
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict
from rhotrace.theory import paper

KEYS = ("growing", "at_least_one", "unit_margins")
_RUNS = ("deep8", "noisy49-gd", "clean49-gd", "ten-classes")


def answer(runs: Runs) -> Answer:
    """Goes through the three remarks on every run."""
    evidence = {name: Evidence(run) for name, run in runs.items()}
    found = {key: {name: CLAIMS[key](one) for name, one in evidence.items()} for key in KEYS}
    outcomes = {key: Counter(one.outcome for one in own.values()) for key, own in found.items()}
    says = {key: paper.STATEMENTS[key] for key in KEYS}
    rows = [
        (says[key].place, says[key].says, name, one.outcome, one.measured)
        for key, own in found.items()
        for name, one in own.items()
    ]
    said = "; ".join(
        f"{says[key].place} ({says[key].says}): {', '.join(f'{outcome} in {n}' for outcome, n in outcomes[key].items())}"
        for key in KEYS
    )
    return Answer(
        verdict=verdict([one.outcome for own in found.values() for one in own.values()]),
        words=f"of {len(runs)} runs: {said}. The rate of growth changes its sign at rho_eq and not at 1, as equation (3) says. What a "
        "remark says of y f = 1 is not put to the test where no network comes near it.",
        limits="the runs are full-batch; the measured figures are of the worst member.",
        would_change="a run in which a remark fails, or one whose normalised outputs reach 1.",
        details=(table("<remark | <says | <run | <outcome | <measured", rows),),
        values={"outcomes": {key: dict(own) for key, own in outcomes.items()}},
    )


def verdict(outcomes: list[str]) -> Verdict:
    """Yes where all hold, no where all that can be tested fail, in part otherwise."""
    tested = [one for one in outcomes if one != "not testable here"]
    if not tested:
        return "undecided"
    if all(one == "fails" for one in tested):
        return "no"
    return "yes" if all(one == "holds" for one in outcomes) else "in part"


_TRAININGS = tuple(Training(name, name) for name in _RUNS)

STUDY = Study(
    name="remarks",
    question="Do the memo's first three remarks hold: rho_k grows below rho_eq, rho_eq is at least 1, y f = 1 is where it ends?",
    source="memo, section 3.1, remarks 1 to 3",
    trainings={
        "small": _TRAININGS,
        "gpu": tuple(Training(run.name, run.recipe, ("members.seeds=32",)) for run in _TRAININGS),
    },
    answer=answer,
)
