"""The paper under test, pinned: its citation, and its statements by key.

Code refers to a statement by its key (``"eq3"``); a test holds that every key used exists. The
formulas are RhoTrace's reading in the means-over-samples convention (the memo mixes sums and
means; with sums, time only shrinks by N). Symbols: ``W_k`` weights of layer k, ``rho_k`` its
Frobenius norm, ``V_k = W_k/rho_k``, ``rho = prod_k rho_k``, ``g`` the network, ``f = g/rho``,
``A = mean(y f)``, ``B = mean(f^2)``, ``a = mean(y g) = rho A``, ``q = mean(g^2) = rho^2 B``.
"""

from __future__ import annotations

from dataclasses import dataclass

CITATION = "T. Poggio and Q. Liao, Implicit dynamic regularization in deep networks, CBMM Memo 112, 17 August 2020"


@dataclass(frozen=True)
class Statement:
    """One statement of the memo: where it stands, what it says, as a formula where it is one."""

    place: str
    says: str
    formula: str


STATEMENTS: dict[str, Statement] = {
    "eq1": Statement("equation (1)", "gradient flow on the square loss", "dW_k/dt = -dL/dW_k, L = mean((g - y)^2)"),
    "eq2": Statement("equation (2)", "the flow in normalised variables", "<W_k, dg/dW_k> = g for every k"),
    "eq3": Statement("equation (3)", "growth of one layer's norm", "d rho_k/dt = (2/rho_k)(a - q)"),
    "eq4": Statement("equation (4)", "motion of the directions", "dV_k/dt = -(1/rho_k)(I - V_k V_k^T) dL/dW_k"),
    "lemma1": Statement("Lemma 1", "all layers' squared norms grow alike", "d(rho_k^2)/dt = 4(a - q) for every k"),
    "eq5": Statement(
        "equation (5)", "growth of the product of equal norms", "d rho/dt = 2 L rho^((2L-2)/L) (A - rho B)"
    ),
    "eq6": Statement("equation (6)", "equilibrium of the product norm", "rho_eq = A/B = rho a/q"),
    "eq7": Statement("equation (7)", "motion of the directions, equal norms", "dV_k/dt as (4), rho_k = rho^(1/L)"),
    "eq8": Statement("equation (8)", "stationary directions", "mean(l df/dV_k) = mean(l f) V_k, l = rho f - y"),
    "eq9": Statement("equation (9)", "the transient as Ivanov regularisation", "min mean((rho f - y)^2) s.t. rho <= C"),
    "fig1": Statement("Figure 1", "sqrt(rho) against time at L = 4, constant A and B", "(5) integrated"),
    "fig2": Statement(
        "Figure 2", "lambda of the Tikhonov problem hypothetically equivalent", "lambda = (A - rho B)/rho"
    ),
    "transient": Statement(
        "section 3",
        "rho stays small for a time T, longer for smaller starts and deeper nets",
        "rho(T) = theta rho_eq(T)",
    ),
    "weightnorm": Statement("remark 4", "weight normalisation has the same norm dynamics", "d gamma_k/dt as (3)"),
    "sgd": Statement("remark 5", "under SGD rho fluctuates around rho_eq", "rho_eq is critical for GD, not for SGD"),
}


def cite(key: str) -> str:
    """The short form in which a report names a statement, such as ``Memo 112, equation (3)``."""
    return f"Memo 112, {STATEMENTS[key].place}"
