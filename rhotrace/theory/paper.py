"""The paper under test, pinned: its citation, and its statements by key.

Code refers to a statement by its key (``"eq3"``); a test checks that every key in use exists. The
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
    """One statement of the memo.

    Attributes:
        place: where it stands.
        says: what it says.
        formula: as a formula, where it is one.
        code: where it is computed, assumed or tested: a path below ``rhotrace``.
    """

    place: str
    says: str
    formula: str
    code: str


STATEMENTS: dict[str, Statement] = {
    "unit_inputs": Statement("section 2.2", "inputs have norm 1", "||x_n|| = 1", "models.datasets.samples.Samples"),
    "bounded": Statement(
        "section 2.2", "the normalised network is at most 1", "|f(x)| <= 1", "analysis.claims.flow.bounded"
    ),
    "equal_norms": Statement(
        "section 2.2", "all layers start with one norm", "rho_k(0) = rho_j(0)", "models.initial_weights.EqualNorms"
    ),
    "eq1": Statement(
        "equation (1)",
        "gradient flow on the square loss",
        "dW_k/dt = -dL/dW_k, L = mean((g - y)^2)",
        "models.optimizers.GD",
    ),
    "eq2": Statement(
        "equation (2)",
        "the flow in normalised variables, by homogeneity",
        "dW_k/dt = -2 (rho/rho_k) mean((rho f - y) df/dV_k), <W_k, dg/dW_k> = g",
        "analysis.claims.flow.homogeneity",
    ),
    "eq3": Statement(
        "equation (3)", "growth of one layer's norm", "d rho_k/dt = (2/rho_k)(a - q)", "theory.step_identity.audit"
    ),
    "eq4": Statement(
        "equation (4)",
        "motion of the directions",
        "dV_k/dt = -(1/rho_k)(I - V_k V_k^T) dL/dW_k",
        "analysis.claims.flow.directions",
    ),
    "lemma1": Statement(
        "Lemma 1",
        "all layers' squared norms grow alike",
        "d(rho_k^2)/dt = 4(a - q) for every k",
        "theory.step_identity.audit",
    ),
    "eq5": Statement(
        "equation (5)",
        "growth of the product of equal norms",
        "d rho/dt = 2 L rho^((2L-2)/L) (A - rho B)",
        "theory.norm_dynamics.driven",
    ),
    "eq6": Statement(
        "equation (6)", "equilibrium of the product norm", "rho_eq = A/B = rho a/q", "recording.quantities.QUANTITIES"
    ),
    "eq7": Statement(
        "equation (7)",
        "motion of the directions, equal norms",
        "dV_k/dt as (4), rho_k = rho^(1/L)",
        "analysis.claims.flow.equal_throughout",
    ),
    "eq8": Statement(
        "equation (8)",
        "the directions come to rest",
        "mean(l df/dV_k) = mean(l f) V_k, l = rho f - y",
        "analysis.claims.flow.stationary",
    ),
    "transient": Statement(
        "section 3",
        "rho stays small for a time T, then grows quickly",
        "rho(T) = theta rho_eq(T)",
        "analysis.transient.transient_time.measure",
    ),
    "longer": Statement(
        "section 3",
        "T is longer for smaller starts and deeper nets",
        "T ~ rho_k(0)^-(L-2)",
        "analysis.scaling.with_start.scaling",
    ),
    "eq9": Statement(
        "equation (9)",
        "the transient as Ivanov regularisation",
        "min mean((rho f - y)^2) s.t. rho <= C",
        "analysis.claims.transient.ivanov",
    ),
    "fig1": Statement(
        "Figure 1",
        "rho grows as if A and B were constant (drawn: sqrt(rho), L = 4)",
        "(5) integrated",
        "analysis.transient.simulation.simulate",
    ),
    "fig2": Statement(
        "Figure 2",
        "lambda of the Tikhonov problem hypothetically equivalent",
        "lambda = (A - rho B)/rho",
        "theory.norm_dynamics.tikhonov_lambda",
    ),
    "interpolation": Statement(
        "section 3", "after T, gradient descent fits the labels", "L -> 0", "analysis.claims.transient.interpolation"
    ),
    "linear": Statement(
        "section 3",
        "linear networks: as a Tikhonov lambda ~ 1/time, to the minimum norm",
        "L = 1",
        "analysis.claims.transient.linear",
    ),
    "minimum_norm": Statement(
        "section 3",
        "convergence to a local minimum norm solution",
        "min ||W|| s.t. g = y",
        "analysis.claims.transient.minimum_norm",
    ),
    "growing": Statement(
        "remark 1",
        "rho_k grows while rho is small and mean(f y) > 0",
        "d rho_k/dt > 0",
        "analysis.claims.remarks.growing",
    ),
    "at_least_one": Statement(
        "remark 2", "rho_eq is at least 1", "rho_eq >= 1", "analysis.claims.remarks.at_least_one"
    ),
    "unit_margins": Statement(
        "remark 3",
        "y_n f_n = 1, rho = 1 is stationary with zero loss",
        "y_n f_n = 1, rho = 1",
        "analysis.claims.remarks.unit_margins",
    ),
    "weightnorm": Statement(
        "remark 4",
        "weight normalisation has the same norm dynamics",
        "d gamma_k/dt as (3)",
        "models.optimizers.WeightNorm",
    ),
    "sgd": Statement(
        "remark 5",
        "under SGD rho fluctuates around rho_eq",
        "rho_eq is critical for GD, not for SGD",
        "analysis.fluctuation.comparison.compare",
    ),
    "exponential": Statement(
        "open question 1",
        "exponential loss: the same transient, then growing margins",
        "-",
        "analysis.claims.remarks.exponential",
    ),
    "generalisation": Statement(
        "open question 2",
        "the transient's regularisation helps prediction",
        "-",
        "analysis.claims.remarks.generalisation",
    ),
    "resnets": Statement(
        "open question 3", "ResNets control the norm more gradually", "-", "analysis.claims.remarks.resnets"
    ),
    "small_rho": Statement(
        "open question 4", "separability biases towards small rho", "-", "analysis.claims.remarks.small_rho"
    ),
    "controlled": Statement(
        "open question 5", "controlling rho_k apart from V_k may help", "-", "analysis.claims.remarks.controlled"
    ),
}


@dataclass(frozen=True)
class Erratum:
    """A place where the memo contradicts itself or says more than follows, with the derivation."""

    key: str
    says: str
    derivation: str


ERRATA: tuple[Erratum, ...] = (
    Erratum(
        "eq1",
        "means in (1) and (2), sums from (3) on",
        "(1) and (2) have the factor 1/N and (3), (4), (5), (7) do not: with sums, time runs N times as fast. RhoTrace "
        "uses means.",
    ),
    Erratum(
        "bounded",
        "|f(x)| <= 1 'at convergence'",
        "|f(x)| <= prod_k ||V_k||_2 ||x|| <= prod_k ||V_k||_F = 1 at all times, since a spectral norm is at most the "
        "Frobenius norm; with Frobenius norms of width-n layers it is loose by up to sqrt(n) for each layer.",
    ),
    Erratum(
        "eq3",
        "rho_k^L stands for rho before Lemma 1 has made the norms equal",
        "From (2), d rho_k/dt = -2 (rho/rho_k) mean((rho f - y) f) for any norms; times 2 rho_k that is Lemma 1, "
        "d(rho_k^2)/dt = -4 mean((rho f - y) rho f), and with equal starts it gives rho = rho_k^L and (3).",
    ),
    Erratum(
        "lemma1",
        "all rho_k are equal 'because of the third assumption'",
        "What Lemma 1 needs is that the norms are equal at initialisation, the last assumption of section 2.2; the third "
        "entry there is ||x|| = 1, which it does not need.",
    ),
    Erratum(
        "eq8",
        "(8) assumes sum(f l) != 0, the next sentence uses sum(f l) = 0",
        "At dV_k/dt = 0, (8) reads sum(l df/dV_k) = sum(l f) V_k for any rho. Where also d rho/dt = 0, (6) makes the "
        "right-hand side 0: no assumption is needed, and sum(l df/dV_k) = 0.",
    ),
    Erratum(
        "growing",
        "d rho_k/dt > 0 'as long as rho is not much larger than 1'",
        "By (3), d rho_k/dt > 0 if and only if A - rho B > 0: for A > 0 that is rho < rho_eq = A/B. Nothing happens at 1.",
    ),
    Erratum(
        "at_least_one",
        "rho_eq >= 1 without a condition",
        "|f_n| <= 1 gives f_n^2 <= |f_n|, hence rho_eq = sum(y f)/sum(f^2) >= 1 if y_n f_n >= 0 for all n; with "
        "misclassified samples it can be smaller, or negative.",
    ),
    Erratum(
        "unit_margins",
        "y_n f_n = 1 for all n as a solution",
        "It needs every sample to reach |f_n| = 1, that is rank-one layers aligned with every x_n at once: in general "
        "it is not attained, and rho at interpolation is 1/|f_n| >> 1.",
    ),
)


def cite(key: str) -> str:
    """The short form in which a report names a statement, such as ``Memo 112, equation (3)``."""
    return f"Memo 112, {STATEMENTS[key].place}"
