"""StyleGAN2's discriminator."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks import EqualizedConv2d, EqualizedLinear, MinibatchStdDev, PixelNorm, block
from gan_blocks.authoring import check_tensor
from gan_blocks.labels import labels_for
from gan_blocks.types import NonNegativeInt, PositiveInt
from gan_blocks_stylegan.common import activated, widths
from gan_blocks_stylegan.resampling import BINOMIAL, filtered, line_of


class _ResidualDown(nn.Module):
    """Two 3x3 convolutions, the second on every other pixel of the filtered map, and a shortcut."""

    line: Tensor

    def __init__(self, before: int, after: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.conv1 = EqualizedConv2d(before, before, 3, padding=1, **options)
        self.conv2 = EqualizedConv2d(before, after, 3, stride=2, **options)
        self.shortcut = EqualizedConv2d(before, after, 1, bias=False, **options)
        self.register_buffer("line", line_of(BINOMIAL, **options))

    def forward(self, x: Tensor) -> Tensor:
        y = activated(self.conv1(x))
        # What the filter has spread beyond the edge is convolved too, instead of zeros.
        y = activated(self.conv2(filtered(y, self.line, (2, 2))))
        # Each of the two has about the variance of x.
        return (y + self.shortcut(filtered(x, self.line, (1, 1), stride=2))) / math.sqrt(2)


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="minibatch standard deviation appends a statistic of a group of the batch",
)
class StyleGAN2Discriminator(nn.Module):
    r"""StyleGAN2's discriminator: residual, with filtered halving, from an image to one logit.

    A 1x1 convolution, then at each size down to 8 pixels a residual block: two 3x3 convolutions, the
    second of which halves the map after the filter $[1, 3, 3, 1]$, and a 1x1 convolution of the map
    halved by the same filter, added and divided by $\sqrt2$. At 4 pixels
    [`MinibatchStdDev`][gan_blocks.MinibatchStdDev], a 3x3 convolution and two linear maps. All have an
    equalised learning rate, and all but the shortcut and the last are followed by
    $\sqrt2\; \mathrm{lrelu}_{0.2}$.

    With classes the last map makes a vector $\phi(x)$, and the logit is
    $\langle v_y, \phi(x) \rangle / \sqrt{d}$ with a learned vector $v_y$ of each class, whose $d$
    components have mean square 1.

    Made to be trained with [`NonSaturatingLoss`][gan_blocks.NonSaturatingLoss] and
    `Lazy(R1Penalty(gamma), every=16)`.

    Args:
        image_size: Pixels of a side, a power of two from 4 on.
        channels: Channels of an image.
        channel_base: Channels of a map times its side.
        channel_max: Channels of a map at most.
        group_size: Samples whose standard deviation is taken together; `None` for the whole batch.
        num_classes: Number of classes; 0 for none.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, channels, image_size, image_size)`, and labels `(N,)` with classes, to `(N,)`.

    Raises:
        ValueError: If the size is no power of two, is larger than `channel_base`, images have another
            shape, or labels are missing or needless.

    Example:
        >>> import torch
        >>> discriminator = StyleGAN2Discriminator(image_size=16, channel_base=128)
        >>> discriminator(torch.randn(4, 3, 16, 16)).shape
        torch.Size([4])

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
        arXiv:1912.04958, section 4 and appendix B. Classes follow the code of StyleGAN2-ADA (Karras et
        al., 2020, arXiv:2006.06676), where a mapping network of eight layers makes $v_y$.
    """

    def __init__(
        self,
        image_size: PositiveInt = 256,
        channels: PositiveInt = 3,
        channel_base: PositiveInt = 32768,
        channel_max: PositiveInt = 512,
        group_size: PositiveInt | None = 4,
        num_classes: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        maps = widths(image_size, channel_base, channel_max)[::-1]
        last = maps[-1]
        self.image_shape = (channels, image_size, image_size)
        self.num_classes = num_classes
        self.from_rgb = EqualizedConv2d(channels, maps[0], 1, **options)
        self.blocks = nn.Sequential(*(_ResidualDown(a, b, options) for a, b in pairwise(maps)))
        self.std_dev = MinibatchStdDev(group_size)
        self.conv = EqualizedConv2d(last + 1, last, 3, padding=1, **options)
        self.hidden = EqualizedLinear(16 * last, last, **options)
        self.out = EqualizedLinear(last, last if num_classes else 1, **options)
        if num_classes:
            self.norm = PixelNorm()
            self.classes = nn.Embedding(num_classes, last, **options)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of images."""
        check_tensor("x", x, of=self)
        if x.shape[1:] != self.image_shape:
            raise ValueError(
                f"StyleGAN2Discriminator takes images of shape (N, "
                f"{', '.join(map(str, self.image_shape))}), got {tuple(x.shape)}"
            )
        classes = labels_for(self, labels, len(x))
        y = self.blocks(activated(self.from_rgb(x)))
        y = activated(self.conv(self.std_dev(y)))
        y = self.out(activated(self.hidden(y.flatten(1))))
        if not classes:
            return y.squeeze(1)
        return (y * self.norm(self.classes(*classes))).sum(1) / math.sqrt(y.shape[1])
