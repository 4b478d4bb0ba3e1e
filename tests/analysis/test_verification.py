"""``verify``: each check has a fault that it finds, and that it alone finds, with the place named."""

from __future__ import annotations

import json
import zlib

import h5py
import numpy as np
import pytest
from damaging import KINDS, attribute, edit, entry, flipped, instead, plan, restamp, unnamed

from rhotrace.analysis.verification import CHECKS, verify
from rhotrace.models.datasets import data_roots
from rhotrace.runfile.integrity import Check
from rhotrace.runfile.reader import Trace, open_trace
from rhotrace.theory.step_laws import LAWS


def record(number: int, by: int, *, sealed: bool = True):
    """A fault in a number of the newest commit record, with a checksum that holds or not."""

    def change(file: h5py.File) -> None:
        commits = file["checkpoint/commit"]
        slot = int(np.argmax(commits[:, 0]))
        numbers = commits[slot, :7]
        numbers[number] += by
        if sealed:
            numbers[6] = zlib.crc32(numbers[:6].tobytes())
        commits[slot, :7] = numbers

    return edit(change)


def norms_and_all_that_follows(file: h5py.File) -> None:
    """rho_k changed at a step without a copy of the weights, and everything derived from it made to agree."""
    file["rho_k"][20, 1, 0] *= 1 + 1e-9
    file["log_rho"][20, 1] = np.log(file["rho_k"][20, 1]).sum()
    file["log_rho_eq"][5, 1] = file["log_rho"][20, 1] + np.log(file["a"][5, 1] / file["q"][5, 1])


def sums_and_all_that_follows(file: h5py.File) -> None:
    """a changed at a step with a copy of the weights, and everything derived from it made to agree."""
    for name in ("a", "q"):  # a/q stays
        file[name][0, 1] *= 1 + 1e-6


def sums_without_a_value(file: h5py.File) -> None:
    for name in ("a", "q", "log_rho_eq", "rho_eq_over_rho"):
        file[name][0, 1] = np.nan


def other_columns(file: h5py.File) -> None:
    """The same norm, another function: two columns of the first layer's weights change places."""
    W = file["weights/W1"][0]
    brightest = int(np.abs(W).sum(axis=(0, 1)).argmax())
    W[:, :, [300, 301, brightest]] = W[:, :, [301, 300, brightest]]
    file["weights/W1"][0] = W[:, :, np.roll(np.arange(W.shape[2]), 7)]


def a_step_more_planned(file: h5py.File) -> None:
    layout = json.loads(file.attrs["layout"])
    file.attrs["layout"] = json.dumps({**layout, "steps": layout["steps"] + 1})
    restamp(file)


def holed(file: h5py.File) -> None:
    """A chunk that nobody wrote: HDF5 reads zeros there."""
    described = {key: value for key, value in file["loss"].attrs.items() if isinstance(value, str)}
    values = file["loss"][()]
    del file["loss"]
    file.create_dataset("loss", values.shape, "<f8", chunks=(5, 2), fletcher32=True)[:5] = values[:5]
    file["loss"].attrs.update(described)
    for number, scale in enumerate(("full_step", "member")):
        file["loss"].dims[number].attach_scale(file[scale])


def as_it_were(numbers: np.ndarray) -> np.ndarray:
    """NaN in the place of numbers."""
    return numbers * np.nan


# fmt: off
# what is done to which file; the check that finds it first; what it says; whether no other check finds it
FAULTS = {
    "text":
        ("sealed", attribute("command", "other", restamped=False), "attributes", "their SHA-256 differs", True),
    "text of a live file":
        ("live", attribute("device", "other", restamped=False), "attributes", "their SHA-256 differs", True),
    "no digest":
        ("sealed", edit(lambda f: f.attrs.__delitem__("attributes_digest")), "attributes", "SHA-256 differs", True),
    "recipe":
        ("sealed", attribute("recipe", plan("steps=41").to_yaml()), "recipe", "recipe_json and recipe_digest", True),
    "no recipe":
        ("sealed", attribute("recipe", "steps: 3"), "recipe", "attributes recipe, recipe_json and recipe_digest do", True),
    "digest of the recipe":
        ("live", attribute("recipe_digest", "0" * 64), "recipe", "recipe_digest do not agree", True),
    "seeds":
        ("sealed", entry("seed", 1, lambda seed: seed + 1), "recipe", "seed: got [0, 2], expected [0, 1]", False),
    "initial norms":
        ("live", entry("init_rho_k", 0, lambda rho: 2 * rho), "recipe", "dataset init_rho_k: got [2.0, ", False),
    "planned steps":
        ("sealed", edit(a_step_more_planned), "commit counter", "expected the 41 planned", True),
    "blocks too many":
        ("live", record(1, +1), "commit counter", "27 steps in 4 blocks", True),
    "half a block":
        ("live", record(0, -1), "commit counter", "26 steps in 3 blocks", True),
    "a torn record":
        ("live", record(4, +1, sealed=False), "commit counter", "according to the other, 18 steps are", True),
    "no record":
        ("live", entry("checkpoint/commit", (), lambda all_: 0 * all_), "commit counter", "no step is committed", False),
    "list of blocks":
        ("live", entry("checkpoint/blocks", (1, 0), lambda last: last - 1), "commit counter", "list of blocks", False),
    "shape":
        ("sealed", instead("weights/W2", lambda W: W[..., :1]), "shapes", "W2: got <f8 of shape (5, 2, 1, 1)", False),
    "type":
        ("sealed", instead("weights/W2", np.float32), "shapes", "dataset weights/W2: got <f4", False),
    "longer than the steps":
        ("sealed", instead("test_loss", lambda v: np.append(v, v[:1], 0)), "shapes", "expected <f8 of (4, 2)", True),
    "type of the seeds":
        ("live", instead("seed", np.int32, fletcher32=False), "shapes", "dataset seed: got <i4", False),
    "dimensions":
        ("sealed", edit(unnamed), "shapes", "dataset loss: got dimensions ('full_step', '')", True),
    "units":
        ("live", edit(lambda f: f["loss"].attrs.__setitem__("units", "m")), "shapes", "attribute units: got 'm'", True),
    "no symbol":
        ("sealed", edit(lambda f: f["a"].attrs.__delitem__("symbol")), "shapes", "attribute symbol: got None", True),
    "missing":
        ("sealed", edit(lambda f: f.__delitem__("test_step")), "shapes", "missing: test_step", False),
    "missing weights":
        ("live", edit(lambda f: f.__delitem__("weights/W2")), "shapes", "missing: weights/W2", False),
    "unknown":
        ("sealed", edit(lambda f: f.__setitem__("momentum", [1.0])), "shapes", "layout that the file states: momentum", False),
    "chunk":
        ("sealed", flipped("test_error", 0.5), "checksums", "dataset test_error is damaged", True),
    "chunk of the weights":
        ("sealed", flipped("weights/W1", 0.5), "checksums", "dataset weights/W1 is damaged", False),
    "chunk of the state":
        ("sealed", flipped("checkpoint/weights2", 0.5), "checksums", "dataset checkpoint is damaged", False),
    "no checksum":
        ("sealed", instead("loss", np.array, fletcher32=False), "checksums", "loss is not stored in chunks with", True),
    "no chunk":
        ("sealed", edit(holed), "checksums", "loss is not stored in chunks with checksums", True),
    "block":
        ("live", flipped("loss", 0.3), "checksums", "steps 9 to 17 are not as they were written", True),
    "snapshot":
        ("live", flipped("weights/W2", 0.45), "checksums", "the weights at step 3 are not", False),
    "state":
        ("live", entry("checkpoint/weights1", np.s_[:, 0, 0, 0], np.negative), "checksums", "newest commit", True),
    "sessions":
        ("live", entry("checkpoint/sessions", -1, lambda byte: byte + 1), "checksums", "list of sessions", True),
    "time axis":
        ("sealed", entry("full_step", 3, lambda step: step + 1), "axes", "row 3 says step 13, expected 12", True),
    "time axis of a live file":
        ("live", entry("step", 3, lambda step: 2 * step), "axes", "step: row 3 says step 6, expected 3", True),
    "fixed axis":
        ("sealed", entry("quantile", 2, lambda part: part / 2), "checksums", "one of the datasets member, ", False),
    "fixed axis of a live file":
        ("live", entry("weights/W1_in", 9, lambda number: number - 1), "axes", "dataset weights/W1_in: ", True),
    "a forgotten snapshot":
        ("live", entry("weights/snapshot_step", 1, lambda step: step - 9), "axes", "weights/snapshot_step: got", True),
    "derived":
        ("sealed", entry("log_rho", (11, 1), lambda v: v + 1e-9), "derived quantities", "step 11, member 1 does not", True),
    "derived at a stride":
        ("sealed", entry("rho_eq_over_rho", (6, 0), np.negative), "derived quantities", "step 24, member 0 does not", True),
    "derived, but NaN":
        ("sealed", entry("log_rho_eq", (7, 0), as_it_were), "derived quantities", "log_rho_eq: step 28", True),
    "law":
        ("sealed", edit(norms_and_all_that_follows), "audit of the steps", "member 1, layer 1: off by", True),
    "gradient":
        ("sealed", entry("grad_norm", (30, 0, 1), np.cbrt), "audit of the steps", "30, member 0, layer 2: off", True),
    "gradient, but NaN":
        ("sealed", entry("grad_norm", (31, 1, 0), as_it_were), "audit of the steps", "step 31, member 1 leads", True),
    "weights":
        ("sealed", entry("weights/W2", (2, 1), lambda W: W * (1 + 1e-9)), "weights and rho_k", "step 3, member 1", True),
    "last weights":
        ("sealed", entry("weights/W2", (-1, 1), np.negative), "weights and rho_k", "the optimizer's state", True),
    "function":
        ("sealed", edit(other_columns), "weights, a and q", "a at step 0, member", True),
    "sums":
        ("sealed", edit(sums_and_all_that_follows), "weights, a and q", "a at step 0, member 1", True),
    "sums, but NaN":
        ("sealed", edit(sums_without_a_value), "weights, a and q", "a at step 0, member 1", True),
}
# fmt: on


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_is_found_by_its_check_which_names_the_place(copies, case):
    kind, plant, first, says, alone = FAULTS[case]
    plant(copies[kind])
    with open_trace(copies[kind]) as trace:
        result = verify(trace)
    wrong = [check for check in result.checks if check.outcome == "wrong"]
    assert not result.sound
    assert wrong[0].name == first, wrong
    assert says in wrong[0].says
    assert not alone or len(wrong) == 1, wrong


def test_every_check_has_a_fault_that_it_alone_finds():
    assert {first for _, _, first, _, alone in FAULTS.values() if alone} == set(CHECKS)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_sound_file_every_check_says_so(files, kind):
    with open_trace(files[kind].path) as trace:
        result = verify(trace)
    assert [check.outcome for check in result.checks] == ["sound"] * len(CHECKS)


def test_what_no_check_expects_is_found_wrong_too_in_one_line(files, monkeypatch):
    def stumble(_):
        raise TypeError("one line\nand another")

    monkeypatch.setitem(CHECKS, "shapes", stumble)
    with open_trace(files["sealed"].path) as trace:
        result = verify(trace)
    assert [check for check in result.checks if check.outcome != "sound"] == [
        Check("shapes", "wrong", "cannot be examined (TypeError: one line)")
    ]


def test_a_state_that_training_overwrites_meanwhile_is_looked_at_again(copies, monkeypatch):
    states, looked_at = Trace.state, []

    def overwritten_once(trace, slot=None):
        looked_at.append(slot)
        found = states(trace, slot)
        return {key: [-W for W in tensors] for key, tensors in found.items()} if len(looked_at) == 1 else found

    monkeypatch.setattr(Trace, "state", overwritten_once)
    with open_trace(copies["live"]) as trace:
        assert verify(trace).sound
    assert len(looked_at) == 2


def test_with_other_data_or_none_the_outputs_are_not_checked_and_the_rest_is(copies, monkeypatch, tmp_path):
    attribute("data_digest", "1" * 64)(copies["live"])

    def absent(*_, **__):
        raise OSError("no network")

    with open_trace(copies["live"]) as trace:
        elsewhere = verify(trace)
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", absent)
    monkeypatch.setattr(data_roots, "roots", lambda *_: [tmp_path / "nowhere"])
    monkeypatch.setattr(data_roots, "cache_root", lambda: tmp_path / "nowhere")
    with open_trace(copies["sealed"]) as trace:
        nowhere = verify(trace)
    for result, says in (
        (elsewhere, "the data here is other data"),
        (nowhere, "needs the data: data: mnist not found"),
    ):
        assert result.sound
        assert [check.outcome for check in result.checks] == ["sound"] * (len(CHECKS) - 1) + ["not checked"]
        assert says in result.checks[-1].says


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_shows_every_check_and_its_exit_code_tells(command, copies, kind):
    code, out, err = command("verify", copies[kind])
    assert (code, err) == (0, "")
    assert f"{copies[kind]}: sound: a {'finished' if kind == 'sealed' else 'live'} run file of" in out
    assert all(check in out for check in CHECKS)
    assert json.loads(command("verify", copies[kind], "--json")[1])["sound"] is True

    entry("log_rho", (11, 1), lambda v: v + 1e-9)(copies[kind])
    code, out, err = command("verify", copies[kind])
    assert (code, err) == (2, "")
    assert "log_rho: step 11, member 1 does not follow from the others" in out
    assert f"{copies[kind]}: {'WRONG' if kind == 'sealed' else 'DAMAGED'} (" in out
    assert (f"`rhotrace repair {copies[kind]}`" in out) == (kind == "live")  # there the block's checksum fails too
    code, out, err = command("verify", copies[kind], "--json")
    assert (code, err) == (2, "")
    shown = json.loads(out)
    assert shown["sound"] is False
    wrong = {check["name"] for check in shown["checks"] if check["outcome"] == "wrong"}
    assert wrong == {"derived quantities"} | ({"checksums"} if kind == "live" else set())


def test_a_run_whose_optimizer_has_no_known_law_is_not_checked_and_not_wrong(train, command, monkeypatch):
    path = train("steps=20")
    monkeypatch.delitem(LAWS, "descent")
    with open_trace(path) as trace:
        found = {check.name: check for check in verify(trace).checks}
    assert found["audit of the steps"].outcome == "not checked"
    assert found["audit of the steps"].says == "the optimizer gd has no known step law"
    code, out, _ = command("verify", path)
    assert code == 0
    assert "the optimizer gd has no known step law" in out
    assert "not checked: the optimizer gd has no known step law" in command("analyze", path)[1]
    assert command("audit", path, "--plot", "audit.svg")[0] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_weight_norm_run_in_which_members_diverge_is_sound(train, dtype):
    """||v||^2 overflows before rho_k does: W = gamma v/||v|| is then zero, and <V, G> is rounded relative to ||G||."""
    rates = [0.05, *np.geomspace(0.5, 1000, 11).tolist()]
    path = train(
        "optimizer={kind: weight-norm, lr: 1}",
        f"members={{seeds: {list(range(12))}, lr: {rates}}}",
        f"network.dtype={dtype}",
    )
    with open_trace(path) as trace:
        v_norm, rho_k = trace["v_norm"], trace["rho_k"]
        found = {check.name: check for check in verify(trace).checks}
    overflown = ~(v_norm < np.sqrt(np.finfo(dtype).max))
    assert (overflown & (rho_k == 0)).any()
    assert {name: check.outcome for name, check in found.items() if check.outcome == "wrong"} == {}


def test_rho_k_of_zero_without_an_overflow_is_wrong(train):
    path = train("optimizer={kind: weight-norm, lr: 0.05}", "steps=20")
    with h5py.File(path, "r+") as file:
        file["rho_k"][11:] = 0.0
    with open_trace(path) as trace:
        found = {check.name: check for check in verify(trace).checks}
    assert "at step 10, " in found["audit of the steps"].says
