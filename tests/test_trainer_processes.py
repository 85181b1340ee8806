"""The trainer on two processes: it does what it does on one, with the same global batch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from trainer_runs import CONFIGS

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory, few_digits):
    """What each config told: on one process, and on the first and the second of two."""
    folder = tmp_path_factory.mktemp("two")
    script = [sys.executable, str(ROOT / "tests" / "train_configs.py")]
    files = [str(few_digits), *map(str, CONFIGS)]
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    together |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environments = [("one", {})]
    environments += [("two", together | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    processes = [
        subprocess.Popen(
            [*script, str(folder / name), *files],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, environment in environments
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
    names = ("one.0", "two.0", "two.1")
    return [json.loads((folder / name).read_text()) for name in names]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_two_processes_tell_what_one_tells(results, file):
    one, first, second = (result[str(file)] for result in results)
    assert first == second
    for alone, together in zip(one, first, strict=True):
        assert together == pytest.approx(alone, rel=1e-8, abs=1e-9)


def test_launched_run_writes_one_log_and_one_checkpoint_and_goes_on_alone(
    examples, tmp_path, capsys
):
    config, out = ROOT / "examples" / "configs" / "ring.toml", tmp_path / "out"
    arguments = [str(config), "--out", str(out), "--set", "log_every=1", "--set", "steps=3"]
    for side in ("generator", "discriminator"):  # Adam's first steps would make much of rounding
        arguments += ["--set", f'{side}_optimizer={{name="SGD", lr=0.01, momentum=0.9}}']
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_port", str(free_port()), "--redirects", "1", "--log_dir", str(tmp_path)]
    launch += [str(examples.folder / "train.py")]
    done = subprocess.run(
        [*launch, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = [file.read_text() for file in tmp_path.glob("**/stdout.log")]
    assert sorted("The samples are in" in text for text in told) == [False, True]
    assert (out / "metrics.json").exists()

    alone = [*arguments, "--device", "cpu"]
    assert examples.train.main([*alone, "--resume", "--set", "steps=6"]) == 0
    alone[2] = str(tmp_path / "alone")
    assert examples.train.main([*alone, "--set", "steps=6"]) == 0
    logs = [examples.checkpoint.read_log(run / "log.jsonl") for run in (out, tmp_path / "alone")]
    assert [line["step"] for line in logs[0]] == [1, 2, 3, 4, 5, 6]
    for ours, theirs in zip(*logs, strict=True):
        theirs = {k: v for k, v in theirs.items() if "second" not in k}
        assert {k: ours[k] for k in theirs} == pytest.approx(theirs, rel=1e-4)


def test_processes_of_which_one_is_asked_to_stop_all_stop_after_the_same_step(examples, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(examples.folder / "train.py"), "--out", str(out)]
    command += [str(ROOT / "examples" / "configs" / "ring.toml"), "--set", "checkpoint_every=10"]
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank} | together,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    while not (out / "checkpoint.previous.pt").exists():
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], told
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert f"stopped after step {state['step']}; --resume goes on from the" in told[0]
    assert f"stopped after step {state['step']}\n" in told[1]


def test_batch_that_the_processes_cannot_share_is_refused(examples):
    dataset = examples.data.load(examples.data.DataConfig(name="digits"), Path(), 0)
    with pytest.raises(examples.data.UsageError, match=r"batch_size: 9 cannot be .* multiple of 2"):
        next(examples.data.items(dataset, 9, 0, process=(0, 2)))


def test_processes_and_parts_share_a_batch_without_rest(examples):
    dataset = examples.data.load(examples.data.DataConfig(name="ring"), Path(), 0)
    (whole,) = next(examples.data.items(dataset, 12, 0, 3))
    shares = [
        next(examples.data.items(dataset, 12, 0, 3, (rank, 2), parts=3))[0] for rank in (0, 1)
    ]
    for i, part in enumerate(whole.chunk(3)):
        for share, half in zip(shares, part.chunk(2), strict=True):
            assert share[2 * i : 2 * i + 2].tolist() == half.tolist()
