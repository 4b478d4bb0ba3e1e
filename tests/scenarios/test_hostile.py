"""Files made to do harm, or made by something else: refused in one line and in little memory, by every command."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import zlib
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
from damaging import SECONDS, attribute, edit, entry, measured, refusal, restamp

from rhotrace.config import recipe
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.runfile.reader import open_trace

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file <_io.FileIO:ResourceWarning")
QUANTITY_NAMES = {*QUANTITIES}


class Bomb:
    """Unpickled, it would show."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def content(data: bytes):
    return lambda path: path.write_bytes(data)


def without(name: str, *more):
    """Another thing in the place of a dataset."""

    def replace(file: h5py.File) -> None:
        del file[name]
        for make in more:
            make(file)

    return edit(replace)


def dataset(name: str, *shape: int, dtype: object = "<f8", **storage: object):
    return without(name, lambda file: file.create_dataset(name, shape, dtype, **storage))


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((10, 2), "<f8")
    layout[:] = h5py.VirtualSource("other.h5", "loss", (10, 2))
    file.create_virtual_dataset("loss", layout)


def gzip_bomb(file: h5py.File) -> None:
    """2 GB of zeros in 2 MB."""
    rows = 1 << 19
    bomb = file.create_dataset("loss", (128 * rows, 4), "<f8", chunks=(rows, 4), compression="gzip")
    chunk = zlib.compress(bytes(rows * 32), 9)
    for number in range(128):
        bomb.id.write_direct_chunk((number * rows, 0), chunk)


def chunk_bomb(file: h5py.File) -> None:
    """A chunk of 160 bytes that unpacks to 100 MB."""
    bomb = file.create_dataset("loss", (10, 2), "<f8", chunks=(10, 2), compression="gzip")
    bomb.id.write_direct_chunk((0, 0), zlib.compress(bytes(10**8)))


def short_chunk(file: h5py.File) -> None:
    """A chunk shorter than its checksum, over which HDF5 2.0 reads until it crashes."""
    kept = file.create_dataset("loss", (10, 2), "<f8", chunks=(10, 2), fletcher32=True)
    kept.id.write_direct_chunk((0, 0), b"ab")


def sparse(file: h5py.File) -> None:
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_layout(h5py.h5d.CONTIGUOUS)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    file.create_dataset("loss", (1 << 36, 2), "<f8", dcpl=early)


def long_attribute(file: h5py.File) -> None:
    """One too large for a text heap: 40 MB, in the file itself."""
    file.attrs.create("note", np.zeros(5_000_000))


def many_attributes(file: h5py.File) -> None:
    for number in range(500):
        file.attrs[f"note{number}"] = number


def replace_in_layout(file: h5py.File, key: str, value: str) -> None:
    """Another value, as JSON, in what a file says of its layout."""
    content = json.loads(file.attrs["layout"])
    assert key in content
    file.attrs["layout"] = json.dumps({**content, key: "HERE"}).replace('"HERE"', value)
    restamp(file)


def planned(key: str, value: str):
    return edit(lambda file: replace_in_layout(file, key, value))


def blocks(*shapes: object) -> str:
    """The layers of a network of these shapes, as JSON."""
    layers = [
        {"name": f"W{k}", "shape": s, "role": "weight", "degree": 1, "start": 0.0} for k, s in enumerate(shapes, 1)
    ]
    return json.dumps(layers)


def more_steps_than_rows(file: h5py.File) -> None:
    """A commit record with a valid checksum."""
    replace_in_layout(file, "steps", "1000")
    numbers = np.array([1000, 3, 0, 0, 1, 1, 0], "<i8")
    numbers[6] = zlib.crc32(numbers[:6].tobytes())
    file["checkpoint/commit"][0, :7] = numbers


DEEP = "[" * 100_000 + "]" * 100_000

# name: (which file, what is done to it)
REFUSED = {
    "pickle": ("sealed", content(pickle.dumps(Bomb()))),
    "random bytes": ("sealed", content(np.random.default_rng(0).bytes(100_000))),
    "empty": ("sealed", content(b"")),
    "a signature alone": ("sealed", content(b"\x89HDF\r\n\x1a\n")),
    "external link": ("sealed", without("loss", lambda f: f.__setitem__("loss", h5py.ExternalLink("o.h5", "/loss")))),
    "soft link": ("sealed", without("loss", lambda f: f.__setitem__("loss", h5py.SoftLink("/error")))),
    "link to nowhere": ("live", without("loss", lambda f: f.__setitem__("loss", h5py.SoftLink("/nowhere")))),
    "linked group": ("sealed", without("weights", lambda f: f.__setitem__("weights", h5py.ExternalLink("o.h5", "/")))),
    "external storage": ("sealed", dataset("loss", 10, 2, external=[("o.bin", 0, h5py.h5f.UNLIMITED)])),
    "virtual dataset": ("sealed", without("loss", virtual)),
    "absurd shape": ("sealed", dataset("loss", 10**12, 2, chunks=(1000, 2))),
    "absurd shape of weights": ("sealed", dataset("weights/W1", 10**12, 2, 2, 784, chunks=(1, 2, 2, 784))),
    "no storage": ("sealed", dataset("loss", 10**9, 2)),
    "sparse": ("sealed", without("loss", sparse)),
    "gzip bomb": ("sealed", without("loss", gzip_bomb)),
    "chunk bomb": ("sealed", without("loss", chunk_bomb)),
    "huge chunks": ("sealed", dataset("loss", 1 << 24, 2, chunks=(1 << 24, 2), compression="gzip")),
    "short chunk": ("sealed", without("loss", short_chunk)),
    "objects": ("sealed", dataset("loss", 10, 2, dtype=h5py.string_dtype())),
    "strings": ("sealed", dataset("loss", 10, 2, dtype="S8")),
    "records": ("sealed", dataset("loss", 10, 2, dtype=[("a", "<f4"), ("b", "<i4")])),
    "complex numbers": ("sealed", dataset("loss", 10, 2, dtype="<c16")),
    "references": ("sealed", dataset("loss", 10, 2, dtype=h5py.ref_dtype)),
    "integers": ("sealed", dataset("loss", 10, 2, dtype="<i8")),
    "a scalar": ("sealed", dataset("loss")),
    "nothing at all": ("sealed", without("loss", lambda f: f.__setitem__("loss", h5py.Empty("<f8")))),
    "too few rows": ("sealed", dataset("loss", 9, 2)),
    "other members": ("sealed", dataset("rho_k", 40, 3, 2)),
    "a seed for all": ("sealed", dataset("seed", 1, dtype="<i8")),
    "seeds in fractions": ("sealed", dataset("seed", 2)),
    "a table of snapshots": ("sealed", dataset("weights/snapshot_step", 5, 5, dtype="<i8")),
    "missing": ("sealed", without("grad_norm")),
    "no learning rates": ("sealed", without("lr")),
    "no initial norms": ("sealed", without("init_rho_k")),
    "a group for a dataset": ("sealed", without("loss", lambda f: f.create_group("loss"))),
    "a dataset for a group": ("sealed", without("weights", lambda f: f.__setitem__("weights", np.zeros(3)))),
    "a circle": ("sealed", edit(lambda f: f["weights"].__setitem__("again", f["/"]))),
    "a circle at the top": ("sealed", without("weights", lambda f: f.__setitem__("weights", f["/"]))),
    "another group": ("sealed", edit(lambda f: f.create_group("more"))),
    "a layout that is no JSON": ("sealed", attribute("layout", "{")),
    "a layout in depth": ("sealed", attribute("layout", DEEP)),
    "a layout of nothing": ("sealed", attribute("layout", "{}")),
    "strides in depth": ("sealed", planned("strides", DEEP)),
    "stride 0": ("sealed", planned("strides", '{"step": 1, "full": 0, "test": 1}')),
    "stride -4": ("sealed", planned("strides", '{"step": 1, "full": -4, "test": 10}')),
    "stride 1e400": ("sealed", planned("strides", '{"step": 1, "full": 1e400, "test": 10}')),
    "strides of other things": ("sealed", planned("strides", '{"step": 1, "full": 4, "tests": 10}')),
    "a list of strides": ("sealed", planned("strides", "[1, 4, 10]")),
    "an array for a layout": ("sealed", attribute("layout", [1, 4, 10], restamped=False)),
    "no layers": ("sealed", planned("blocks", "[]")),
    "more layers": ("sealed", planned("blocks", blocks([2, 784], [1, 2], [1, 1]))),
    "wide layers": ("sealed", planned("blocks", blocks([10**30, 784], [1, 10**30]))),
    "layers of layers": ("sealed", planned("blocks", blocks([[2], 784], [1, [2]]))),
    "a layer elsewhere": ("sealed", planned("blocks", blocks([2, 784], [1, 2]).replace("W2", "../loss"))),
    "digits without end": ("sealed", planned("steps", "9" * 10_000)),
    "steps in words": ("live", planned("steps", '"forty"')),
    "no step": ("live", planned("steps", "0")),
    "snapshots backwards": ("live", planned("snapshots", "[3, 1, 0]")),
    "states elsewhere": ("live", planned("state", '{"../rho_k": [[2], [2]]}')),
    "another type": ("sealed", attribute("dtype", "object")),
    "a version in words": ("sealed", attribute("format_version", "two")),
    "a list of versions": ("sealed", attribute("format_version", [2, 2], restamped=False)),
    "a fraction of a version": ("sealed", attribute("format_version", 2.5)),
    "samples in words": ("sealed", attribute("samples", "many")),
    "time in words": ("sealed", attribute("wall_seconds", "long")),
    "a status in numbers": ("sealed", attribute("status", 3)),
    "an empty attribute": ("sealed", attribute("note", h5py.Empty("<f8"), restamped=False)),
    "a reference": ("sealed", edit(lambda f: f.attrs.__setitem__("note", f["loss"].ref))),
    "a long attribute": ("sealed", edit(long_attribute)),
    "many attributes": ("sealed", edit(many_attributes)),
    "no type": ("sealed", edit(lambda f: f.attrs.__delitem__("dtype"))),
    "more steps than rows": ("live", edit(more_steps_than_rows)),
    "no commit record": ("live", without("checkpoint/commit")),
    "a commit of numbers with a point": ("live", dataset("checkpoint/commit", 2, 512)),
    "a short commit": ("live", dataset("checkpoint/commit", 2, 3, dtype="<i8")),
}


def filled(value: float, *, also: float | None = None):
    """All quantities the same number, or two in turn."""

    def fill(file: h5py.File) -> None:
        for name in QUANTITY_NAMES & set(file):
            values = np.full(file[name].size, value)
            values[1::2] = value if also is None else also
            file[name][...] = values.reshape(file[name].shape)

    return edit(fill)


def not_text(file: h5py.File) -> None:
    """Bytes that are no UTF-8 in what says that it is."""
    kind = h5py.h5t.TypeID.copy(h5py.h5t.C_S1)
    kind.set_size(4)
    kind.set_cset(h5py.h5t.CSET_UTF8)
    del file.attrs["device"]
    made = h5py.h5a.create(file.id, b"device", kind, h5py.h5s.create(h5py.h5s.SCALAR))
    made.write(np.array(b"\xff\xfe\xc3\x28"), mtype=kind)


RECIPE = {"claim": "", "data": {}, "network": [], "steps": 10**400}
# what opens: which file, what is done to it, whether it is analysed, whether it is sound
OPENED = {
    "NaN": ("sealed", filled(np.nan), True, False),
    "NaN in a live file": ("live", filled(np.nan), True, False),
    "infinity": ("sealed", filled(-np.inf), True, False),
    "zero": ("sealed", filled(0), True, False),
    "huge": ("sealed", filled(1e308, also=-1e308), True, False),
    "no recipe": ("sealed", edit(lambda f: f.attrs.__delitem__("recipe_json")), False, False),
    "a recipe that is no JSON": ("sealed", attribute("recipe_json", "{"), False, False),
    "a recipe in depth": ("live", attribute("recipe_json", DEEP), False, False),
    "a recipe that is a list": ("sealed", attribute("recipe_json", "[1, 2]"), False, False),
    "a recipe of other things": ("sealed", attribute("recipe_json", json.dumps(RECIPE)), False, False),
    "a recipe of digits without end": (
        "sealed",
        attribute("recipe_json", '{"steps": ' + "9" * 10_000 + "}"),
        False,
        False,
    ),
    "YAML in depth": ("sealed", attribute("recipe", DEEP), True, False),
    "no data": ("sealed", edit(lambda f: f.attrs.__delitem__("data_classes")), False, False),
    "no device": ("live", edit(lambda f: f.attrs.__delitem__("device")), False, False),
    "sessions": ("sealed", attribute("sessions", '[1]\n{"from_step": 3}\n' + DEEP), True, True),
    "escapes": ("sealed", attribute("device", "\x1b[31mred\r\n\ttabs \u2066\u2067"), True, True),
    "not text": ("sealed", edit(not_text), True, False),
    "blocks of no length": ("live", dataset("checkpoint/blocks", 0, 2, dtype="<i8"), True, False),
    "one block": ("live", dataset("checkpoint/blocks", 40, dtype="<i8", chunks=True), True, False),
    "states of another shape": ("live", dataset("checkpoint/weights1", 2, 1, chunks=True), True, False),
    "sessions of another shape": ("live", dataset("checkpoint/sessions", 2, 8, dtype="u1", chunks=True), True, False),
    "weights of another shape": ("sealed", dataset("weights/W1", 5, 3, chunks=True), True, False),
    "layers of other shapes": ("sealed", planned("blocks", blocks([3, 784], [1, 2])), True, False),
    "snapshots elsewhere": ("sealed", entry("weights/snapshot_step", (), lambda steps: steps + 2**62), True, False),
}


@pytest.mark.parametrize(("number", "case"), list(enumerate(REFUSED)), ids=list(REFUSED))
def test_a_hostile_file_is_refused_in_a_line_before_its_data_is_read(command, copies, number, case):
    kind, make = REFUSED[case]
    make(copies[kind])
    assert refusal(lambda: open_trace(copies[kind]), copies[kind])
    words = (["analyze", "--fit-transient"], ["info"], ["verify", "--json"])[number % 3]
    code, out, err = command(*words, copies[kind].name)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {copies[kind].name}: ")
    assert len(err.splitlines()) == 1
    code, out, err = command("repair", copies[kind].name)
    assert len(f"{out}{err}".splitlines()) <= 3
    assert code in (0, 2)
    assert not Path("unpickled").exists()


# theory and closed_form warn of numbers that overflow.
loud = [pytest.param(case, marks=pytest.mark.filterwarnings("ignore::RuntimeWarning")) for case in ("huge",)]


@pytest.mark.parametrize("case", [*(case for case in OPENED if case != "huge"), *loud])
def test_what_is_odd_inside_a_run_file_ends_in_no_traceback(command, copies, case):
    kind, make, analysed, sound = OPENED[case]
    make(copies[kind])
    codes = {}
    for words in (["analyze", "--fit-transient"], ["info"], ["verify"], ["repair"]):
        codes[words[0]], out, err = command(*words, copies[kind].name)
        assert len(err.splitlines()) <= 1, err
        assert codes[words[0]] == 0 or out or err.startswith(f"error: {copies[kind].name}: ")
    assert codes["analyze"] == (0 if analysed else 2)
    assert codes["verify"] == (0 if sound else 2)
    assert {codes["info"], codes["repair"]} <= {0, 2}


def test_what_is_no_file_is_refused_at_once(command, tmp_path):
    os.mkfifo(tmp_path / "fifo.h5")
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "dangling.h5").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.h5").symlink_to(tmp_path / "loop.h5")
    for name, says in {
        "fifo.h5": "got a special file, expected a run file",
        "folder.h5": "got a folder, expected a run file",
        "dangling.h5": "no such run file",
        "loop.h5": "no such run file",
        "/dev/zero": "got a special file, expected a run file",
    }.items():
        for words in ("analyze", "info", "verify", "repair"):
            code, out, err = command(words, name)
            assert (code, out) == (2, ""), words
            assert err.startswith(f"error: {name}: {says}")
            assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("recipe", "check", "/dev/zero"), "recipe"),
        (("train", "/dev/zero"), "recipe"),
        (("sweep", "/dev/zero"), "sweep"),
    ],
)
def test_a_device_without_an_end_is_no_recipe(rhotrace, words, what):
    done = rhotrace(*words, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: /dev/zero: cannot be read as a {what}: it is a special file\n"


@pytest.mark.parametrize("path", ["/", ".", ""])
@pytest.mark.parametrize("words", [("watch", "--once"), ("watch", "--web"), ("train", "quick.yaml", "-o")])
def test_a_path_without_a_name_is_refused_in_a_line(command, words, path):
    assert command("recipe", "copy", "quick", "-o", ".")[0] == 0
    code, out, err = command(*words, path)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path or '.'}: got a folder")
    assert len(err.splitlines()) == 1


HOSTILE = "\x1b]0;x\x07\x1b[2J\x9b31m\x7f\u202e\r"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


def hostile_everywhere(file: h5py.File) -> None:
    """Control characters in what is shown of a run: provenance, recipe, classes, name of a dataset."""
    for name in ("command", "host", "device", "data_classes", "started", "ended"):
        file.attrs[name] = HOSTILE
    content = json.loads(file.attrs["recipe_json"])
    content["claim"] = HOSTILE
    file.attrs["recipe_json"], file.attrs["recipe"] = json.dumps(content), f"claim: {HOSTILE}"
    file.create_dataset(f"a{HOSTILE}", data=np.zeros(3))
    restamp(file)


@pytest.mark.parametrize("words", ["info", "analyze", "audit", "verify", "compare", "repair", "watch --once"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_control_characters_of_a_file_and_its_name_are_not_sent_to_the_terminal(copies, command, words, options):
    edit(hostile_everywhere)(copies["sealed"])
    path = copies["sealed"].rename(copies["sealed"].with_name(f"b{HOSTILE}.h5"))
    other = [copies["live"].name] if words == "compare" else []
    code, out, err = command(*words.split(), path.name, *other, *options)
    assert code in (0, 2)
    assert out or err
    assert not OBEYED.findall(out + err)
    if words == "info":
        assert ("\\u001b" if options else "\\x1b]0;x\\x07\\x1b[2J\\x9b31m\\x7f") in out
    if options and out:
        assert json.loads(out)


def test_control_characters_of_a_recipe_are_escaped_where_it_is_printed(tmp_path, small, command):
    file = tmp_path / f"r{HOSTILE}.yaml"
    file.write_text(f"{small}claim: {json.dumps(HOSTILE)}\n", encoding="utf-8")
    code, out, err = command("recipe", "check", file)
    assert code == 0
    assert not OBEYED.findall(out + err)
    assert recipe.parse(out).claim == HOSTILE  # it is still the same recipe


@pytest.mark.parametrize(
    "words",
    [
        ("analyze", f"--{HOSTILE}"),
        ("analyze", "a.h5", HOSTILE),
        (HOSTILE,),
        ("recipe", HOSTILE),
        ("compare", "a.h5", "b.h5", "--align", HOSTILE),
        ("simulate", "--depth", HOSTILE),
        ("train", HOSTILE),
    ],
    ids=lambda words: words[0] if words[0].isprintable() else "command",
)
def test_control_characters_of_an_argument_are_not_repeated(command, words):
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert "9b31m" in err  # it is named
    assert not OBEYED.findall(err)


def test_control_characters_of_a_file_are_not_in_reports_and_figures(copies, command):
    edit(lambda file: [file.attrs.update(command=HOSTILE, host=HOSTILE), restamp(file)])(copies["sealed"])
    path = copies["sealed"].rename(copies["sealed"].with_name(f"b{HOSTILE}.h5"))
    for words in (["report", path.name, "-o", "r.html"], ["plot", path.name, "--what", "rho", "-o", "rho.svg"]):
        code, out, err = command(*words)
        assert (code, err) == (0, "")
        assert not OBEYED.findall(out)
    for made in (path.with_name("r.html"), path.with_name("rho.svg")):
        content = made.read_text(encoding="utf-8")
        assert not OBEYED.findall(content.replace("\t", " "))
        pictures = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", content)
        for picture in [base64.b64decode(text).decode() for text in pictures] or [content]:
            ElementTree.fromstring(picture)


@pytest.mark.usefixtures("quick_pictures")
def test_a_file_name_that_is_not_utf8_is_shown_and_exported(copies, command):
    path = copies["sealed"].rename(os.fsdecode(os.fsencode(copies["sealed"].parent) + b"/caf\xe9.h5"))
    for words in (["info"], ["report", "-o", "r.html"], ["export", "--to", "parquet", "-o", "r.parquet"]):
        code, out, err = command(*words, path.name)
        assert (code, err) == (0, ""), words
        out.encode()
    assert "caf\\xe9" in copies["sealed"].with_name("r.html").read_text(encoding="utf-8")
    import pyarrow.parquet

    kept = pyarrow.parquet.read_schema(copies["sealed"].with_name("r.parquet")).metadata
    assert kept[b"rhotrace_run"].decode().endswith("caf\\udce9.h5")


@pytest.mark.parametrize(
    ("words", "case"),
    [
        ("analyze", "gzip bomb"),
        ("info", "absurd shape"),
        ("verify", "short chunk"),
        ("repair", "a long attribute"),
    ],
)
def test_a_process_refuses_a_hostile_file_in_little_memory(copies, words, case):
    kind, make = REFUSED[case]
    make(copies[kind])
    code, out, err = measured(words, copies[kind].name, folder=copies[kind].parent)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith(f"error: {copies[kind].name}: ")


def test_a_process_refuses_text_on_which_hdf5_would_hang(copies):
    path = copies["sealed"]
    whole = bytearray(path.read_bytes())
    heap = whole.rindex(b"GCOL\1\0\0\0")
    at = heap + 16
    while whole[at : at + 2] != b"\0\0":  # to the last text of the heap, behind which there are zeros
        last, at = at, at + 16 + -(-int.from_bytes(whole[at + 8 : at + 16], "little") // 8) * 8
    whole[last + 8 : last + 16] = bytes(8)  # a text of no size: HDF5 would take the zeros for the next ones
    path.write_bytes(whole)
    code, out, err = measured("verify", path.name, folder=path.parent)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"the text at byte {heap} is damaged" in err
