"""What a second writer of a run file is told, by how it came to write it."""

from __future__ import annotations

from own_study import write_study

from rhotrace.runfile.run_lock import RunLock


def test_each_command_names_its_own_way_to_another_file(command, small, tmp_path):
    (tmp_path / "small.yaml").write_text(small)
    study = write_study(tmp_path)
    run = tmp_path / "runs" / "small.h5"
    for words, remedy in (
        (["train", "small.yaml"], "use -o FILE"),
        (["study", study.name, "--device", "cpu"], "use --runs FOLDER"),
    ):
        with RunLock(run):
            code, _, err = command(*words)
        assert code == 2
        assert " ".join(err.split()).endswith(f"is training into this file; wait for it, or {remedy}")
