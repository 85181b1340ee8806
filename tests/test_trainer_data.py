"""The data sets of the trainer."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from trainer_runs import image_config


def test_batch_depends_on_the_seed_and_its_number_only(examples):
    dataset = torch.utils.data.TensorDataset(torch.arange(10))
    stream = examples.data.batches(dataset, 3, seed=0)
    drawn = [next(stream).tolist() for _ in range(9)]
    later = examples.data.batches(dataset, 3, seed=0, start=5)
    assert [next(later).tolist() for _ in range(4)] == drawn[5:]
    for epoch in (drawn[:3], drawn[3:6], drawn[6:]):
        assert len({i for batch in epoch for i in batch}) == 9
    assert drawn[:3] != drawn[3:6]
    assert next(examples.data.batches(dataset, 3, seed=1)).tolist() != drawn[0]


def test_digits_are_1797_images_in_minus_one_to_one(examples):
    dataset = examples.data.load(examples.data.DataConfig(name="digits"), Path(), 0)
    images, labels = dataset.tensors
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min(), images.max()) == (-1, 1)
    assert labels.unique().tolist() == list(range(10))


def test_image_folder_trains_on_images_of_any_size(examples, write, train, tmp_path, capsys):
    random = np.random.default_rng(0)
    for name, size in (("a/1.png", (9, 12)), ("a/2.png", (8, 8)), ("b/3.png", (20, 10)),
                       ("b/4.png", (8, 30))):  # fmt: skip
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    data = 'name = "ImageFolder"\nroot = "images"\nimage_size = 8'
    assert train(image_config(write, data, channels=3)) == (0, "")
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert examples.evaluate.main([str(tmp_path / "out"), "--device", "cpu"]) == 2
    told = capsys.readouterr().err
    assert told == "evaluate.py: ImageFolder has no metrics of its own; add --inception 10000\n"
    assert examples.evaluate.main([str(tmp_path / "out"), "--inception", "-1"]) == 2
    assert capsys.readouterr().err == "evaluate.py: --inception: should be 0 or more, got -1\n"
    (tmp_path / "images" / "b" / "4.png").write_bytes(b"no image")
    status, message = train(image_config(write, data, channels=3), out="other")
    assert status == 2
    assert "4.png" in message


def test_mnist_is_read_from_its_files_and_scaled(
    examples, write, train, tmp_path, monkeypatch, write_mnist
):
    monkeypatch.setattr(examples.train, "evaluate_run", lambda trainer, out: {})
    pixels = np.zeros((6, 28, 28))
    pixels[:, 14:] = 255
    write_mnist(tmp_path / "files", pixels)
    data = 'name = "MNIST"\nroot = "files"'
    config = image_config(write, data, side=28)
    assert train(config) == (0, "")
    dataset = examples.data.load(
        examples.data.DataConfig(name="MNIST", root="files"), tmp_path, seed=0
    )
    batch = next(examples.data.batches(dataset, 4, seed=0))
    assert batch.shape == (4, 1, 28, 28)
    assert (batch[:, :, :14] == -1).all()
    assert (batch[:, :, 14:] == 1).all()


@pytest.mark.skipif("GAN_BLOCKS_MNIST" not in os.environ, reason="GAN_BLOCKS_MNIST is not set")
def test_mnist_of_the_user_trains_and_is_evaluated(write, train, tmp_path):
    data = f'name = "MNIST"\nroot = "{os.environ["GAN_BLOCKS_MNIST"]}"'
    assert train(image_config(write, data, side=28)) == (0, "")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["classifier_accuracy"] >= 0.97


def test_missing_image_folder_is_refused(write, train, tmp_path):
    data = 'name = "ImageFolder"\nroot = "nowhere"\nimage_size = 8'
    status, message = train(image_config(write, data, channels=3))
    assert status == 2
    assert re.search(r"data.root: .*nowhere.* one folder of images per class", message)
    assert not (tmp_path / "out").exists()


def test_data_that_cannot_be_downloaded_is_refused(write, train, monkeypatch, tmp_path):

    def offline(self):
        raise OSError("network is unreachable")

    monkeypatch.setattr(datasets.MNIST, "download", offline)
    status, message = train(image_config(write, 'name = "FashionMNIST"\nroot = "files"', side=28))
    assert status == 2
    assert "has no readable FashionMNIST, and it cannot be downloaded" in message
    assert "network is unreachable" in message
    assert not (tmp_path / "out").exists()


def test_torchvision_is_imported_only_when_it_is_asked_for(examples):
    code = f"""
import sys
import tomllib
sys.path.insert(0, {str(examples.folder)!r})
import train
sys.exit("torchvision" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
