"""The published scores of images: FID, KID, Inception score, precision and recall.

    python examples/evaluate.py runs/cifar --inception 10000

They are computed by torch-fidelity, whose numbers others can compare with, in the features of
networks that were trained on ImageNet. Those have to be downloaded once.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torchvision.models import VGG16_Weights

from data import UsageError

WEIGHTS = {
    # FID, KID and the Inception score.
    "inception-v3-compat": URL_INCEPTION_V3,
    # Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, section 2.1).
    "vgg16": VGG16_Weights.IMAGENET1K_V1.url,
}
"""Where the weights of torch-fidelity's networks come from."""


class _Bytes(Dataset[Tensor]):
    """Images in [-1, 1], the first parts of a data set's items, as bytes of three channels."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        image = (self.dataset[index][0].clamp(-1, 1) + 1) * 127.5
        return image.round().to(torch.uint8).expand(3, -1, -1)


def fetch_weights() -> None:
    """Download the weights that are not there yet, and check those that are."""
    for url in WEIGHTS.values():
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
        try:
            # The name holds the start of the file's hash. Read without unpickling code.
            torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True)
        except OSError as error:
            raise UsageError(
                f"--inception: {file} is not there, and it cannot be downloaded ({error}); get {url} "
                "where there is a network, and put it there"
            ) from error
        except Exception as error:  # whatever the reading of other bytes raises
            raise UsageError(
                f"--inception: {file} is damaged; remove it, and get {url} again"
            ) from error


def inception_metrics(
    generated: Tensor, dataset: Any, network: str | None = None
) -> dict[str, float]:
    """FID, KID with its deviation over subsets, Inception score, precision and recall.

    Args:
        generated: Images in [-1, 1], of one channel or three.
        dataset: The real ones, as the first parts of its items. As many are drawn, or all there are.
        network: A network that is registered with torch-fidelity, for all of the scores; those of
            the papers if left out.
    """
    if generated.dim() != 4:
        raise UsageError("--inception: the scores are for images, and these samples are points")
    if min(len(generated), len(dataset)) < 10:
        raise UsageError(
            f"--inception: 10 images at least are needed, got {len(generated)} generated and "
            f"{len(dataset)} real ones"
        )
    if network is None:
        fetch_weights()
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    real = Subset(dataset, order[: len(generated)].tolist())
    scores = torch_fidelity.calculate_metrics(
        input1=_Bytes(TensorDataset(generated)),
        input2=_Bytes(real),
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor=network,
        kid_subset_size=min(1000, len(generated), len(real)),
        cuda=torch.cuda.is_available(),
        save_cpu_ram=True,  # the images are in memory already, so no processes to load them
        cache=False,
        verbose=False,
    )
    return {
        "fid": scores[torch_fidelity.KEY_METRIC_FID],
        "kid": scores[torch_fidelity.KEY_METRIC_KID_MEAN],
        "kid_deviation": scores[torch_fidelity.KEY_METRIC_KID_STD],
        "inception_score": scores[torch_fidelity.KEY_METRIC_ISC_MEAN],
        "precision": scores[torch_fidelity.KEY_METRIC_PRECISION],
        "recall": scores[torch_fidelity.KEY_METRIC_RECALL],
    }
