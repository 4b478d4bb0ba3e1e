from __future__ import annotations

import numpy as np
import pytest
from exported import series, span_of

from rhotrace.errors import RhoTraceError
from rhotrace.export import tables as exporting
from rhotrace.runfile.reader import open_trace


@pytest.mark.parametrize("every", [1, 7])
def test_a_tensorboard_folder_holds_every_number_in_a_run_for_each_member(run, tmp_path, every, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(exporting, "_ROWS", 4)  # several blocks
    with open_trace(run) as trace:
        rows = exporting.export(trace, "tensorboard", tmp_path / "log", every=every)
        wanted, (start, end), recipe = series(trace, every), span_of(trace), trace.attributes["recipe"]
    assert rows == 3 * -(-60 // every)
    assert sorted(p.name for p in (tmp_path / "log").iterdir() if p.is_dir()) == ["member-0", "member-1", "member-2"]
    for member, numbers in enumerate(wanted):
        log = events.EventAccumulator(str(tmp_path / "log" / f"member-{member}"), {"scalars": 0, "tensors": 0})
        log.Reload()
        assert sorted(log.Tags()["scalars"]) == sorted(numbers)
        for name, held in numbers.items():
            found = log.Scalars(name)
            assert [(e.step, np.float32(e.value)) for e in found] == [(s, np.float32(v)) for s, v in held], name
            times = [event.wall_time for event in found]
            assert times == sorted(times)
            assert start <= times[0] <= times[-1] <= end
        assert log.SummaryMetadata("rho_k/2").summary_description.startswith("Frobenius norm")
        texts = {name: log.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in ("recipe", "member")}
        assert [line.removeprefix("    ") for line in texts["recipe"].split("\n")] == recipe.splitlines()
        assert f"| seed | {member} |" in texts["member"]


def test_a_damaged_start_is_a_line(run, tmp_path):
    pytest.importorskip("tensorboard")
    with open_trace(run) as trace:
        trace.attributes["started"] = "yesterday"
        with pytest.raises(RhoTraceError, match="attribute started is not a time"):
            exporting.export(trace, "tensorboard", tmp_path / "log")


def test_the_command_says_how_to_look_at_a_tensorboard_folder(run, command):
    pytest.importorskip("tensorboard")
    folder = run.with_suffix(".tensorboard")
    code, out, err = command("export", run, "--to", "tensorboard", "--every", "30")
    assert (code, out, err) == (0, f"{folder}: 6 rows\n", f"next: tensorboard --logdir {folder}\n")
