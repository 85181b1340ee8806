"""The example trains."""

import importlib.util
import wave
from pathlib import Path

import torch

EXAMPLE = Path(__file__).parent.parent / "examples" / "vocoder.py"


def example():
    spec = importlib.util.spec_from_file_location("vocoder", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_steps_write_two_signals_of_one_length(tmp_path, capsys):
    vocoder = example()
    arguments = ["--steps", "2", "--batch-size", "2", "--every", "1", "--out", str(tmp_path)]
    distances = vocoder.main(arguments)
    assert len(distances) == 3
    assert distances[2] < distances[0]
    assert "held-out mel distance" in capsys.readouterr().out
    lengths = []
    for name in ("real.wav", "generated.wav"):
        with wave.open(str(tmp_path / name)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
            lengths.append(file.getnframes())
    assert lengths[0] == lengths[1] == 4 * 8000 // 64 * 64


def test_utterances_follow_their_seed_and_have_a_pitch():
    vocoder = example()
    x = vocoder.utterances(2, 8000, seed=3)
    torch.testing.assert_close(x, vocoder.utterances(2, 8000, seed=3), rtol=0, atol=0)
    assert not torch.allclose(x, vocoder.utterances(2, 8000, seed=4))
    torch.testing.assert_close(x.abs().amax((1, 2)), torch.full((2,), 0.9))
    # Somewhere a stretch of 50 ms repeats itself after a period between 90 and 240 Hz.
    best = 0.0
    for start in range(0, 7000, 200):
        frame = x[0, 0, start : start + 800]
        for lag in range(8000 // 240, 8000 // 90 + 1):
            a, b = frame[:400], frame[lag : lag + 400]
            best = max(best, float(torch.cosine_similarity(a, b, 0)))
    assert best > 0.9
