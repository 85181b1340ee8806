"""What a run writes, that it goes on to the last bit, and that nothing on disk is lost."""

import functools
import io
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_runs import MATCHING, PLUGIN, image_config, log_of, parts, same


def test_run_writes_log_pictures_board_checkpoint_and_metrics(write, train, tmp_path):
    assert train(write(("log_every = 1", "log_every = 5"))) == (0, "")
    out = tmp_path / "out"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10]
    names = {"step", "d_loss", "d_gradient", "d_real"}
    names |= {"g_loss", "g_gradient", "d_fake_before", "d_fake_after"}
    names |= {"seconds_per_step", "samples_per_second"}
    assert all(set(line) == names for line in lines)
    assert all(0 < line["d_fake_after"] < 1 for line in lines)
    assert sorted(p.name for p in (out / "samples").iterdir()) == ["0000008.png", "0000012.png"]
    assert (out / "curves.png").stat().st_size > 0
    assert list((out / "tensorboard").iterdir())
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"step", "modes", "high_quality", "reverse_kl"}
    assert metrics["step"] == 12
    assert not list(out.glob("*.tmp"))


def test_pictures_and_checkpoints_have_all_that_was_logged_and_samples_of_the_config_s_seed(
    examples, write, tmp_path, monkeypatch
):
    out, kept, curves, samples = tmp_path / "some" / "where", {}, [], []
    save = examples.checkpoint.save

    def saved(state, path):
        kept[state["step"]] = len(log_of(out)) if state["step"] else 0
        save(state, path)

    monkeypatch.setattr(examples.checkpoint, "save", saved)
    monkeypatch.setattr(examples.plots, "curves", lambda log, path: curves.append(len(log)))
    monkeypatch.setattr(examples.plots, "samples", lambda x, path: samples.append(x))
    config = examples.reading.read_config(examples.config.Config, write(), ["seed=3"])
    it = examples.train.run(config, tmp_path, out, torch.device("cpu"), False)
    assert kept == {0: 0, 5: 5, 10: 10, 12: 12}
    assert curves == [8, 12]
    assert len(samples) == 2
    assert torch.equal(samples[1], it.sample(examples.plots.COUNT, seed=3))


def test_speed_is_the_mean_since_the_last_line_of_the_log(
    examples, write, train, tmp_path, monkeypatch
):
    record = examples.record.Record.step

    def timed(self, values, seconds, stopped):
        record(self, values, 0.5 * self.trainer.step, stopped)

    monkeypatch.setattr(examples.record.Record, "step", timed)
    assert train(write(("log_every = 1", "log_every = 5"))) == (0, "")
    lines = examples.checkpoint.read_log(tmp_path / "out" / "log.jsonl")
    speeds = [(line["seconds_per_step"], line["samples_per_second"]) for line in lines]
    assert speeds == [(1.5, 16 / 1.5), (4.0, 4.0)]


def test_bar_counts_the_steps_of_the_whole_run_and_shows_the_values(
    examples, write, train, monkeypatch
):
    config, shown = write(), io.StringIO()
    assert train(config, "--set", "steps=5") == (0, "")
    bar = functools.partial(examples.record.tqdm, file=shown, mininterval=0)
    monkeypatch.setattr(examples.record, "tqdm", lambda **how: bar(**how | {"disable": False}))
    assert train(config, "--resume") == (0, "")
    first, *_, last = shown.getvalue().strip().split("\r")
    assert " 5/12 " in first
    assert " 12/12 " in last
    assert "d_loss=" in last
    assert shown.getvalue().endswith("\n")


def test_evaluation_of_a_finished_run_gives_its_metrics_again(
    examples, write, train, tmp_path, capsys
):
    train(write())
    expected = (tmp_path / "out" / "metrics.json").read_text()
    assert examples.evaluate.main([str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == expected


def test_plugin_s_loss_and_auxiliary_term_and_a_lazy_penalty_train_and_resume(
    examples, write, train, tmp_path
):
    (tmp_path / "my_blocks.py").write_text(PLUGIN)
    config = write(
        ('block = "RelativisticLoss"', 'block = "my_blocks/SquareLoss"\nscale = 3.0'),
        (
            '{ block = "R1Penalty", gamma = 0.1 }',
            '{ block = "Lazy", penalty = { block = "R1Penalty", gamma = 0.1 }, every = 5 }',
        ),
        (
            "[data]",
            'plugins = ["./my_blocks.py"]\n'
            'auxiliary = [{ term = { block = "my_blocks/Gap" }, weight = 0.5 }]\n\n[data]',
        ),
    )
    assert train(config, "--set", "steps=7") == (0, "")
    assert train(config, "--resume") == (0, "")
    state = parts(tmp_path / "out")
    assert state["auxiliary.0"]["calls"] == 12
    assert state["loss"]["calls"] == 12
    assert state["penalties.0"] == {"step_count": 12}
    assert examples.evaluate.main([str(tmp_path / "out"), "--device", "cpu"]) == 0


OPTIONS = [
    (
        "steps = 12",
        'steps = 12\ncritic_steps = 2\nreuse_fakes = true\nprecision = "bfloat16"\nclip_gradient = 1.0',
    ),
    MATCHING,
    ("[discriminator]", 'norm = "virtual"\n\n[discriminator]'),
    ("[loss]", 'norm = "virtual"\nminibatch_kernels = 4\n\n[loss]'),
]


@pytest.mark.parametrize(("stop", "changes"), [("1", []), ("5", []), ("7", []), ("7", OPTIONS)])
def test_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(
    write, train, tmp_path, stop, changes
):
    config = write(*changes)
    assert train(config, out="whole")[0] == 0
    assert train(config, "--set", f"steps={stop}", out="parts")[0] == 0
    torch.rand(5)  # whatever happens in between
    assert train(config, "--resume", out="parts")[0] == 0
    assert same(parts(tmp_path / "whole"), parts(tmp_path / "parts"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    metrics = [(tmp_path / run / "metrics.json").read_text() for run in ("whole", "parts")]
    assert metrics[0] == metrics[1]


def test_every_random_number_goes_on_where_it_was(examples):
    numbers = examples.checkpoint.RandomNumbers(0, torch.device("cpu"))

    def drawn():
        return [
            random.random(),
            np.random.rand(),  # noqa: NPY002
            torch.rand(()).item(),
            torch.rand((), generator=numbers.draws).item(),
        ]

    drawn()
    state = numbers.state_dict()
    expected, later = drawn(), drawn()
    numbers.load_state_dict(state)
    assert drawn() == expected
    assert all(a != b for a, b in zip(expected, later, strict=True))


def test_run_on_images_with_a_reference_resumes(
    write, train, tmp_path, few_digits, monkeypatch, examples
):
    monkeypatch.setattr(examples.train, "evaluate_run", lambda trainer, out: {})
    config = image_config(write, f'name = "MNIST"\nroot = "{few_digits}"', side=28)
    arguments = ("--set", "discriminator.norm=virtual", "--set", "checkpoint_every=1")
    assert train(config, *arguments) == (0, "")
    assert train(config, *arguments, "--set", "steps=3", "--resume") == (0, "")


def test_run_killed_at_20_moments_goes_on_to_the_last_bit_each_time(write, tmp_path):
    config = write(("steps = 12", "steps = 40"), ("checkpoint_every = 5", "checkpoint_every = 7"))
    script = Path(__file__).with_name("kill_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(config)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith("20 runs killed")


def test_line_of_the_log_that_was_cut_off_is_dropped(write, train, tmp_path):
    config = write()
    assert train(config, "--set", "steps=7") == (0, "")
    with (tmp_path / "out" / "log.jsonl").open("a") as file:
        file.write('{"step": 99999, "d_lo')
    assert train(config, "--resume") == (0, "")
    assert [line["step"] for line in log_of(tmp_path / "out")] == list(range(1, 13))


@pytest.mark.parametrize("line", [b"no json", b"\xff\xfe\x00", b"[1]", b'{"loss": 1}'])
def test_damaged_line_of_the_log_is_named(write, train, tmp_path, line):
    config, path = write(), tmp_path / "out" / "log.jsonl"
    train(config, "--set", "steps=7")
    whole = path.read_bytes()
    path.write_bytes(whole + line + b"\n")
    status, message = train(config, "--resume")
    assert status == 2
    assert re.search(r"log.jsonl is damaged in line 8, .*; delete the line, and go on", message)
    path.write_bytes(whole)
    assert train(config, "--resume") == (0, "")


def test_folder_that_cannot_be_written_is_told(examples, write, train, monkeypatch, tmp_path):
    config = write()
    (tmp_path / "file").write_text("")
    status, message = train(config, out="file/out")
    assert status == 2
    assert re.search(
        r"file/out cannot be written \(.*Not a directory.*choose another --out", message
    )

    def gone(*args):
        raise OSError(28, "No space left on device")

    for place, name in ((examples.plots, "samples"), (examples.record.SummaryWriter, "close")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, gone)
            status, message = train(config, out=name)
        assert status == 2
        told = rf"{name} cannot be written \(.*No space.*make room.* --resume goes on"
        assert re.search(told, message)
        assert train(config, "--resume", out=name) == (0, "")


@pytest.mark.parametrize("gone", [".", "tensorboard"])
def test_folder_that_vanishes_is_told_in_one_line(
    examples, write, train, monkeypatch, tmp_path, gone
):
    config, record = write(), examples.record.Record.step

    def removing(self, *arguments):
        if self.trainer.step == 7:
            self.board.flush()
            shutil.rmtree(self.out / gone)
        return record(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(examples.record.Record, "step", removing)
        status, message = train(config)
    assert status == 2
    assert "out, or the folder tensorboard in it, is gone; --resume goes on from the" in message
    assert message.count("\n") == 1
    assert train(config, *(["--resume"] if gone == "tensorboard" else [])) == (0, "")


def test_full_disk_is_told_and_leaves_the_earlier_checkpoints(
    examples, write, train, tmp_path, monkeypatch
):
    config = write()
    train(config)
    names = ("checkpoint.pt", "checkpoint.previous.pt")
    before = [(tmp_path / "out" / name).read_bytes() for name in names]

    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(examples.checkpoint.torch, "save", full)
        status, message = train(config, "--resume", "--set", "steps=20")
    assert status == 2
    assert "the checkpoint of step 15 cannot be written ([Errno 28] No space left" in message
    assert "checkpoint.pt still has an earlier one; make room, and go on from it" in message
    assert [(tmp_path / "out" / name).read_bytes() for name in names] == before
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert train(config, "--resume", "--set", "steps=20") == (0, "")


def test_limit_of_the_system_on_the_size_of_a_file_is_told(examples, tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {"step": 4, "device": "cpu"}
    examples.checkpoint.save(state, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(examples.data.UsageError, match=r"step 5 .*\[Errno 27\] File too large"):
            examples.checkpoint.save({"step": 5, "weights": torch.zeros(100_000)}, path)
        with pytest.raises(examples.data.UsageError, match=r"none yet; make room, and start again"):
            examples.checkpoint.save(
                {"step": 0, "weights": torch.zeros(100_000)}, tmp_path / "x.pt"
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert examples.checkpoint.load(path, torch.device("cpu")) == state


def test_folder_that_holds_a_run_is_not_overwritten(write, train, tmp_path):
    config = write()
    train(config)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    status, message = train(config)
    assert status == 2
    assert "already holds a run: add --resume, or choose another --out" in message
    assert before == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_folder_with_other_files_is_left_alone_and_they_are_named(write, train, tmp_path):
    (tmp_path / "out").mkdir()
    for name, holds in (("b.txt", "b.txt"), ("a", "a, b.txt"), ("c", "a, b.txt, c"),
                        ("d", "a, b.txt, c and 1 more")):  # fmt: skip
        (tmp_path / "out" / name).write_text("mine")
        status, message = train(write())
        assert status == 2
        assert (
            f"out holds {holds} and no checkpoint, so it is no run to go on with; empty" in message
        )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "b.txt", "c", "d"]


def test_run_killed_while_it_put_a_checkpoint_in_place_is_not_overwritten(write, train, tmp_path):
    config = write()
    train(config)
    (tmp_path / "out" / "checkpoint.pt").unlink()
    status, message = train(config)
    assert status == 2
    assert "already holds a run: add --resume, or choose another --out" in message


def test_output_path_that_is_a_file_is_refused(write, train, tmp_path):
    (tmp_path / "out").write_text("mine")
    status, message = train(write())
    assert status == 2
    assert "out" in message
    assert (tmp_path / "out").read_text() == "mine"


def test_resume_without_a_run_is_refused(write, train, tmp_path):
    status, message = train(write(), "--resume")
    assert status == 2
    assert "checkpoint.pt is not there" in message
    assert not (tmp_path / "out").exists()


def test_resume_with_another_config_is_refused_and_names_the_difference(write, train, tmp_path):
    train(write())
    before = (tmp_path / "out" / "checkpoint.pt").read_bytes()
    status, message = train(write(("batch_size = 16", "batch_size = 8")), "--resume")
    assert status == 2
    assert "batch_size was 16 and is 8" in message
    assert "another --out" in message
    assert (tmp_path / "out" / "checkpoint.pt").read_bytes() == before


@pytest.fixture
def of_another_version(write, train, tmp_path):
    """A config and a run of it whose checkpoint lacks some settings and has others besides."""

    def make(*missing, **more):
        config, path = write(), tmp_path / "out" / "checkpoint.pt"
        assert train(config, "--set", "steps=5") == (0, "")
        state = torch.load(path, weights_only=True)
        for *tables, key in missing:
            inner = state["config"]
            for name in tables:
                inner = inner[name]
            del inner[key]
        state["config"] |= more
        torch.save(state, path)
        return config

    return make


def test_settings_that_a_later_version_brought_may_have_their_defaults(of_another_version, train):
    config = of_another_version(["clip_gradient"], ["accumulate"], ["loss", "combine"])
    status, message = train(config, "--resume", "--set", "accumulate=2")
    assert status == 2
    assert "another config: accumulate was 1 and is 2; undo" in message
    assert train(config, "--resume") == (0, "")


def test_settings_that_are_gone_or_required_since_are_named(of_another_version, train):
    status, message = train(of_another_version(["generator"], width=3), "--resume")
    assert status == 2
    assert "generator was not there and is {'block': 'MLPGenerator'" in message
    assert "width was 3 and is not there; " in message


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "zeros", "other", "pickle", "poor"])
def test_damaged_checkpoint_is_refused_and_kept(write, train, tmp_path, damage):
    config = write()
    train(config)
    path = tmp_path / "out" / "checkpoint.pt"
    whole = path.read_bytes()
    if damage == "other":
        torch.save({"weights": torch.ones(3)}, path)
    elif damage == "pickle":
        torch.save(Path("a class that weights_only refuses"), path)
    elif damage == "poor":
        state = torch.load(path, weights_only=True)
        del state["parts"]["critic"]["layers.1.weight"]
        torch.save(state, path)
    else:
        middle = len(whole) // 2
        zeros = whole[:middle] + bytes(512) + whole[middle + 512 :]  # a block that never came
        files = {"empty": b"", "cut": whole[:middle], "noise": b"\x80x", "zeros": zeros}
        path.write_bytes(files[damage])
    before = path.read_bytes()
    status, message = train(config, "--resume")
    assert status == 2
    assert "checkpoint.pt is damaged" in message
    assert "rename checkpoint.previous.pt, the one before it, to checkpoint.pt" in message
    assert "another --out" in message
    assert path.read_bytes() == before
    path.with_name("checkpoint.previous.pt").rename(path)
    assert train(config, "--resume") == (0, "")
