"""The results page: every figure of docs/results.md, computed from finished runs of the shipped recipes.

    for r in recipes/*.yaml; do rhotrace train $r; done
    for r in $(ls recipes/cifar/*.yaml | grep -v gpu); do rhotrace train $r; done
    python benchmarks/results.py

asks ``rhotrace ... --json`` for each figure, writes docs/results.json, and renders docs/results.md from it by
benchmarks/results.md.j2. A command whose runs are not there keeps the figures, and the date, that results.json has.
``--render`` renders the page without any run.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "results.json"
PAGE = ROOT / "docs" / "results.md"
STUDIES = ROOT / "docs" / "studies.json"  # written by benchmarks/studies.py

Figures = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A command, the runs that it reads, and the figures that are made of its JSON."""

    command: str
    figures: Callable[..., Figures]

    def runs(self, folder: Path) -> list[Path]:
        """The run files of the command, those of a pattern in the order of a shell; empty if one is missing."""
        found: list[Path] = []
        for word in self.command.split():
            if word.startswith("runs/"):
                paths = sorted(folder.glob(word.removeprefix("runs/")))
                if not paths:
                    return []
                found += paths
        return found


# --- figures of each command -------------------------------------------------------------------------------


def ends(values: Sequence[float]) -> list[float]:
    """The smallest and the largest."""
    return [min(values), max(values)]


def found(pattern: str, text: str) -> list[float]:
    """The numbers that stand at ``#`` in a pattern, such as ``4.2e-08`` or ``10^5.2``; the text must match it."""
    number = r"((?:10\^)?-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
    match = re.search(pattern.replace("#", number), text)
    if match is None:
        raise ValueError(f"got {text!r}, expected {pattern!r}")
    values = [value for value in match.groups() if value]
    return [10 ** float(value[3:]) if value.startswith("10^") else float(value) for value in values]


def claims(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace audit``: its outcomes, and the numbers in what it measured."""
    findings = {claim["key"]: claim["finding"] for claim in content["claims"]}
    patterns = {
        "unit_inputs": "= 1 to #",
        "bounded": "= #",
        "equal_norms": "differ by #",
        "eq1": "makes # %",
        "eq2": "to # of",
        "eq4": "to #$",
        "eq6": "is # to #",
        "eq7": "at most #",
        "eq8": "at # of",
        "transient": "at most # %",
        "fig1": "A changes by a factor of #(?: to #)?",
        "fig2": "from # to #",
        "interpolation": "loss #, training error #",
        "growing": "in # % .* in # %",
        "at_least_one": "is #",
        "unit_margins": "is #",
    }
    measured = {key: found(pattern, findings[key]["measured"]) for key, pattern in patterns.items()}
    return {
        "outcome": {key: finding["outcome"] for key, finding in findings.items()},
        "measured": {key: values if len(values) > 1 else values[0] for key, values in measured.items()},
    }


def turns(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace audit``: its claims, and in how many members A changes its sign."""
    (figure,) = (claim["finding"]["measured"] for claim in content["claims"] if claim["key"] == "fig1")
    return {**claims(content), "A_turns": found("sign in # of", figure)[0]}


def transient(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace analyze --fit-transient``: T, equation (5), the fit with constant A and B, the audit of every step."""
    each = content["transient"]["each"]
    driven = max((e["driven"] for e in each), key=lambda d: d["largest"])
    constant = [e["T_constant"] / e["T"] for e in each if e["T_constant"]]
    return {
        "T": content["transient"]["pools"][0]["T"],
        "members": len(each),
        "residual": content["audit"]["residual"],
        "checked": content["audit"]["checked"],
        "balance": content["audit"]["balance"],
        "driven_misses": driven["largest"],
        "driven_rises": driven["rise"],
        "T_if_constant": ends(constant),
        "fit_misses": ends([e["fit"]["residual"] for e in each]),
    }


def balance(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace analyze``: Lemma 1."""
    return {"balance": content["audit"]["balance"]}


def times(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace analyze``: T of the run and of each member."""
    measured = content["transient"]
    return {"T": measured["pools"][0]["T"], "each": [e["T"] for e in measured["each"]]}


def fitted(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace audit``: in how many members the labels are fitted, and the largest loss."""
    (measured,) = (c["finding"]["measured"] for c in content["claims"] if c["key"] == "interpolation")
    some, members, loss = found("in # of # members; largest loss #", measured)
    return {"fitted": int(some), "members": int(members), "loss": loss}


def exponents(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace scaling``: the exponent of each depth with its errors, the clock, the phases, and T of depth over depth."""
    return {
        "exponent": {str(d["depth"]): d["exponent"] for d in content["each"] if d["depth"] > 2},
        "systematic": {str(d["depth"]): d["systematic"] for d in content["each"] if d["depth"] > 2},
        "clock": {str(d["depth"]): d["clock"] for d in content["each"]},
        "phases": {str(d["depth"]): d["phases"] for d in content["each"]},
        "law": {str(d["depth"]): d["law"] for d in content["each"]},
        "per_efold": next(d["per_efold"] for d in content["each"] if d["depth"] == 2),
        "verdict": dict(zip((str(d["depth"]) for d in content["each"]), content["verdicts"], strict=True)),
        "deeper": content["deeper"],
    }


def deeper(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace scaling``: T of each depth over that of the next, at each start."""
    return {"deeper": content["deeper"]}


def against(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace scaling --against``: T of other runs over T of the same seeds and starts."""
    kept = ("depth", "label", "start", "ratio", "seeds", "of")
    partners = content["each"][0]["points"]
    steps = {str(p["start"]): p["T"]["value"] for p in partners}
    return {"against": [{key: each[key] for key in kept} for each in content["against"]], "T": steps}


def fluctuation(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace compare``: each run by its name, and each contrast by the names of its two runs."""
    names = {side["letter"]: Path(side["path"]).stem for side in content["sides"]}
    result: Figures = {"runs": {}, "contrasts": {}}
    for side in content["sides"]:
        one = {key: side[key] for key in ("std", "std_rho", "std_rho_eq", "over_frozen", "predicted_over")}
        predictions = [m["prediction"] for m in side["each"] if m["prediction"]]
        one["follows"] = [p["correlation"] for p in predictions if p["correlation"] is not None]
        one["sharpness"] = [p["sharpness"] for p in predictions]
        one["alternating"] = [m["fluctuation"]["period_two"] for m in side["each"]]
        one["choices"] = ends(side["choices"]) if side["choices"] else None
        for key in ("offset", "drift", "rise", "distance"):
            one[key] = side[key]
        one["fall"] = side["decay"] and side["decay"]["fall"]
        one["against_loss"] = side["decay"] and side["decay"]["against_loss"]
        result["runs"][names[side["letter"]]] = one
    for contrast in content["contrasts"]:
        pair = f"{names[contrast['run']]}/{names[contrast['base']]}"
        figures = {key: contrast[key] for key in ("ratio", "rho", "tau", "distance")}
        figures["choices"] = ends([choice["ratio"]["value"] for choice in contrast["choices"]])
        figures["shown"] = sum(choice["ratio"]["low"] > 1 for choice in contrast["choices"])
        figures["of"] = len(contrast["choices"])
        result["contrasts"][pair] = figures
    result["exponents"] = [
        {key: e[key] for key in ("optimizer", "sampling", "scales", "joint")} for e in content["exponents"]
    ]
    return result


def series(path: str) -> Figures:
    """What the recorded series say themselves: by how much rho grows, and the gradient across V_k at the end."""
    import rhotrace

    with rhotrace.open(path) as run:
        log_rho, rho_k, gradient = run["log_rho"], run["rho_k"], run["grad_norm"]
        slope = 2 * (run["q"] - run["a"])[..., None]  # <W_k, dL/dW_k>, by homogeneity
    across = np.sqrt(np.maximum(gradient**2 - (slope / rho_k) ** 2, 0))
    left = (np.median(across[-max(1, len(across) // 100) :], axis=0) / across.max(axis=0)).max(axis=1)
    return {"grows": ends(np.exp(log_rho[-1] - log_rho[0]).tolist()), "still_turning": sorted(left.tolist())}


def alternation(path: str) -> Figures:
    """Learning rate times sharpness, flips, and the alternating part of log(rho/rho_eq), before and after lr/10.

    Of each network, over the last 1,000 steps on each side.
    """
    import rhotrace

    with rhotrace.open(path) as run:
        rates, ratio = run["lr_step"], run["rho_eq_over_rho"]
        found = {name: (run.step_of(name), run[name]) for name in ("sharpness", "activation_flips")}
    turn, delta = int(np.argmax(rates[:, 0] < rates[0, 0])), -np.log(np.where(ratio > 0, ratio, np.nan))
    swing = np.abs(delta[2:] - 2 * delta[1:-1] + delta[:-2]) / 4
    sides = {"before": (turn - 1000, turn), "after": (len(rates) - 1000, len(rates))}
    result: Figures = {"lr": rates[0, 0], "tenth": rates[-1, 0]}
    for side, (first, last) in sides.items():
        rows = {name: values[(steps >= first) & (steps < last)] for name, (steps, values) in found.items()}
        result[side] = {
            "lr_sharpness": (np.median(rows["sharpness"], axis=0) * rates[last - 1]).tolist(),
            "flips": np.median(rows["activation_flips"], axis=0).tolist(),
            "alternates": np.sqrt(np.mean(swing[first : last - 2] ** 2, axis=0)).tolist(),
        }
    return result


# --- CIFAR-10 ----------------------------------------------------------------------------------------------

AT = (0, 20, 40, 60, 80, 100, 150, 200, 400, 600, 750, 1000)


def ends_of(path: str) -> Figures:
    """The last errors and losses of each member, on the training set and the test set."""
    import rhotrace

    with rhotrace.open(path) as run:
        names = ("loss", "error", "test_loss", "test_error")
        found: Figures = {name: run[name][-1].tolist() for name in names}
        found |= {name: run[name].tolist() for name in run.per_member if name != "batch_seed"}
    return found


def follow_up(path: str) -> Figures:
    """What the released code of CBMM Memo 117 calls rho, at some steps; and how the run ended.

    Its network has an output for each of the two classes. Ours has one, their difference, whose last layer has a norm
    that is the square root of 2 as large where the two outputs are opposite.
    """
    import rhotrace

    with rhotrace.open(path) as run:
        rho = np.exp(run["log_rho_bn"]) / np.sqrt(2)
        hundredth = {
            "last_100": run["rho_k"][100, :, -1].tolist(),
            "product_100": np.exp(run["log_rho"][100]).tolist(),
        }
    steps = [step for step in AT if step < len(rho)]
    return {
        **ends_of(path),
        "at": {str(step): rho[step].tolist() for step in steps},
        **hundredth,
    }


def low_rank(*paths: str) -> Figures:
    """The rank of the hidden layers at the end, their mean over layers 2 to L - 1, by batch size."""
    import rhotrace

    found: Figures = {}
    for path in paths:
        with rhotrace.open(path) as run:
            ranks = run["rank"]
            size = run.recipe["optimizer"]["batch_size"]
        inner = {"start": ranks[0, :, 1:-1].mean(axis=1).tolist(), "rank": ranks[-1, :, 1:-1].mean(axis=1).tolist()}
        found[str(size)] = {**ends_of(path), **inner}
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def conv_exponents(content: Any) -> Figures:  # noqa: ANN401 - JSON
    """``rhotrace scaling``: the exponents of each depth, and how many members have no T at each start."""
    return {
        "each": {
            str(d["depth"]): {key: d[key] for key in ("law", "exponent", "local")}
            | {"without": [p["members"] - p["left"] for p in d["points"]], "members": d["points"][0]["members"]}
            for d in content["each"]
        }
    }


NETS, WAYS = ("mlp4", "mlp6", "conv4"), ("", "-sgd", "-weightnorm")

SOURCES = {
    "audit": Source("rhotrace audit runs/deep8.h5", turns),
    "deep8": Source("rhotrace analyze runs/deep8.h5 --fit-transient", transient),
    "deep8_each": Source("rhotrace analyze runs/deep8.h5", times),
    "deep8_sgd": Source("rhotrace analyze runs/deep8-sgd.h5", balance),
    "weightnorm": Source("rhotrace analyze runs/deep8-weightnorm.h5", times),
    "quick": Source("rhotrace analyze runs/quick.h5", times),
    "series": Source("rhotrace.open runs/deep8.h5", series),
    "scaling": Source("rhotrace scaling runs/scaling-L*.h5", exponents),
    "deeper": Source("rhotrace scaling runs/deeper-L*.h5", deeper),
    "held": Source(
        "rhotrace scaling runs/scaling-L3.h5 runs/scaling-L4.h5 runs/scaling-L8.h5 --against runs/held-L3.h5 "
        "--against runs/held-L4.h5 --against runs/held-L8.h5",
        against,
    ),
    "start_of_v": Source("rhotrace scaling runs/scaling-L4.h5 --against runs/weightnorm-start.h5", against),
    "sharpness": Source("rhotrace.open runs/deep8-sharpness.h5", alternation),
    "scaling_L8": Source("rhotrace audit runs/scaling-L8.h5", fitted),
    "eight_layers": Source("rhotrace compare runs/deep8.h5 runs/deep8-sgd.h5 --predict", fluctuation),
    "clean": Source("rhotrace compare runs/clean49-*.h5 --predict", fluctuation),
    "drifting": Source("rhotrace compare runs/noisy49-gd.h5 runs/noisy49-sgd.h5 --window 2000:6000", fluctuation),
    "unstable": Source("rhotrace compare runs/noisy49-gd.h5 runs/noisy49-sgd.h5 --window 8000:16000", fluctuation),
    "by_default": Source("rhotrace compare runs/noisy49-gd.h5 runs/noisy49-sgd.h5", fluctuation),
    "settled": Source("rhotrace compare runs/noisy49-gd.h5 runs/noisy49-sgd.h5 --window 28000:", fluctuation),
    "noisy": Source("rhotrace compare runs/noisy49-*.h5 --align time --predict", fluctuation),
    **{
        f"cifar_{net}{way}".replace("-", "_"): Source(f"rhotrace analyze runs/{net}{way}.h5", times)
        for net in NETS
        for way in WAYS
    },
    **{f"cifar_{net}_pair": Source(f"rhotrace compare runs/{net}.h5 runs/{net}-sgd.h5", fluctuation) for net in NETS},
    "cifar_scaling": Source("rhotrace scaling runs/scaling-conv-L?.h5", conv_exponents),
    "memo117": Source("rhotrace.open runs/memo117.h5", follow_up),
    "memo117_clean": Source("rhotrace.open runs/memo117-clean.h5", follow_up),
    "memo117_noisy": Source("rhotrace.open runs/memo117-noisy.h5", follow_up),
    "rank": Source("rhotrace.open runs/rank-b8.h5 runs/rank-b32.h5 runs/rank-b128.h5", low_rank),
    "init_scale": Source("rhotrace.open runs/init-scale.h5", ends_of),
    "ten_classes_conv": Source("rhotrace.open runs/ten-classes-conv.h5", follow_up),
}


def measure(source: Source, folder: Path) -> Figures | None:
    """Runs a command on its runs; None where they are not all there."""
    runs = source.runs(folder)
    if not runs:
        return None
    if source.command.startswith("rhotrace.open"):
        return source.figures(*map(str, runs))
    words: list[str] = []
    for word in source.command.split()[1:]:
        words += map(str, sorted(folder.glob(word.removeprefix("runs/")))) if word.startswith("runs/") else [word]
    command = [sys.executable, "-m", "rhotrace", *words, "--json"]
    print(" ".join(command[2:]), file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return source.figures(json.loads(done.stdout))


def rounded(value: Any) -> Any:  # noqa: ANN401 - JSON
    """The same with five significant digits: what is printed, with room, and no more than another machine gives again."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def update(folder: Path, names: Sequence[str]) -> None:
    """Measures what has its runs, and writes results.json."""
    known = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    for name in names:
        figures = measure(SOURCES[name], folder)
        if figures is None:
            print(f"{name}: runs missing in {folder}; its figures stay", file=sys.stderr)
            continue
        known[name] = {
            "command": SOURCES[name].command,
            "measured": {
                "date": datetime.now(UTC).date().isoformat(),
                "rhotrace": version("rhotrace"),
                "torch": version("torch").split("+")[0],
                "numpy": version("numpy"),
                "machine": platform.machine(),
            },
            "figures": rounded(figures),
        }
        ordered = {key: known[key] for key in SOURCES if key in known}
        DATA.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- the page ----------------------------------------------------------------------------------------------

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def scientific(value: float, digits: int = 1) -> str:
    """``4·10⁻⁸``."""
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def power(value: float, decimals: int = 1) -> str:
    """``10^5.2``."""
    return f"10^{np.log10(value):.{decimals}f}"


def fixed(value: float, decimals: int = 0) -> str:
    """A number with a fixed number of decimals."""
    return f"{value:,.{decimals}f}"


def significant(value: float, digits: int = 2) -> str:
    """A number with a fixed number of significant digits, without an exponent."""
    rounded_value = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(rounded_value))))) if value else 0
    return f"{rounded_value:,.{decimals}f}"


def percent(value: float, digits: int = 2) -> str:
    """A share in per cent."""
    return f"{significant(100 * value, digits)} %"


def interval(measured: dict[str, float], kind: str = "significant", digits: int = 2) -> str:
    """``value [low, high]``."""
    show = FILTERS[kind]
    value, low, high = (show(measured[key], digits) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def shift(value: float) -> str:
    """A shift of an exponent, with its sign."""
    return f"{value:+.3f}" if abs(value) < 0.1 else f"{value:+.2f}"


FILTERS: dict[str, Callable[..., str]] = {
    "shift": shift,
    "scientific": scientific,
    "power": power,
    "fixed": fixed,
    "significant": significant,
    "percent": percent,
    "interval": interval,
}


def render(content: dict[str, Any]) -> str:
    """The page, from the content of results.json."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "benchmarks"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(FILTERS)
    figures = {name: source["figures"] for name, source in content.items()}
    measured = {name: source["measured"] for name, source in content.items()}
    commands = {name: source["command"] for name, source in content.items()}
    return environment.get_template("results.md.j2").render(
        **figures,
        **ranges(figures),
        measured=measured,
        commands=commands,
        studies=json.loads(STUDIES.read_text(encoding="utf-8")),
    )


def ranges(figures: dict[str, Figures]) -> Figures:
    """What the page says of several runs or members together."""
    pairs = zip(figures["weightnorm"]["each"], figures["deep8_each"]["each"], strict=True)
    shallow = [d for d in figures["scaling"]["deeper"] if d["depths"][0] < 4]
    depths = shallow + figures["deeper"]["deeper"]
    noisy = [run for run in figures["noisy"]["runs"].values() if run["predicted_over"]["value"]]
    return {
        "law_off": {
            depth: abs(found["extrapolated"]["value"] / figures["scaling"]["law"][depth] - 1)
            for depth, found in figures["scaling"]["systematic"].items()
        },
        "late": [found["late"]["value"] for found in figures["scaling"]["systematic"].values()],
        "phases": {
            key: sum(each[key] for each in figures["scaling"]["phases"].values()) for key in ("several", "members")
        },
        "depths": depths,
        "shown_up_to": max(d["start"] for d in depths if d["ratio"]["low"] > 1),
        "alternation_falls": sorted(
            before / after
            for before, after in zip(
                *(figures["sharpness"][side]["alternates"] for side in ("before", "after")), strict=True
            )
        ),
        "weightnorm_off": max(abs(one / other - 1) for one, other in pairs),
        "at_rest": ends([1 / run["over_frozen"]["value"] for run in noisy]),
        "linearised": ends([run["predicted_over"]["value"] for run in noisy]),
        "follows": float(np.median([value for run in noisy for value in run["follows"]])),
        **cifar_ranges(figures),
    }


def cifar_ranges(figures: dict[str, Figures]) -> Figures:
    """The same of the runs on CIFAR-10."""

    def off(way: str) -> float:
        """The largest difference of T from that under GD of the same seed."""
        pairs = [
            pair
            for net in NETS
            for pair in zip(figures[f"cifar_{net}{way}"]["each"], figures[f"cifar_{net}"]["each"], strict=True)
        ]
        return max(abs(one / other - 1) for one, other in pairs if one and other)

    published = figures["memo117"]
    tenth = [m for m, start in enumerate(published["init_rho_k"]) if start == 0.1]
    ended = zip(figures["init_scale"]["error"], figures["init_scale"]["test_error"], strict=True)
    fitted = [test for error, test in ended if error <= 0.005]
    return {
        "photographs": {
            net: {way or "_gd": figures[f"cifar_{net}{way}"]["T"] for way in ("", "_sgd", "_weightnorm")}
            | {"ratio": figures[f"cifar_{net}_pair"]["contrasts"][f"{net}-sgd/{net}"]["ratio"]}
            for net in NETS
        },
        "cifar_off": {"sgd": off("_sgd"), "weightnorm": off("_weightnorm")},
        "tenth": tenth,
        "tenth_range": ends([published["at"]["100"][m] for m in tenth]),
        "fitted_test": {"count": len(fitted), "ends": ends(fitted)},
        "law_met": [
            d
            for d, e in figures["cifar_scaling"]["each"].items()
            if e["local"]["low"] <= e["law"] <= e["local"]["high"]
        ],
        "without_T": sum(sum(e["without"]) for e in figures["cifar_scaling"]["each"].values()),
    }


def main() -> None:
    """Measures and renders."""
    parser = argparse.ArgumentParser(description="Makes docs/results.md from finished runs of the shipped recipes.")
    parser.add_argument("names", nargs="*", help=f"figures to measure, of {', '.join(SOURCES)}; all by default")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run files")
    parser.add_argument("--render", action="store_true", help="only render docs/results.md from docs/results.json")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in SOURCES]
    if unknown:
        parser.error(f"got {', '.join(unknown)}, expected names among {', '.join(SOURCES)}")
    if not asked.render:
        update(asked.runs, asked.names or list(SOURCES))
    PAGE.write_text(render(json.loads(DATA.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
