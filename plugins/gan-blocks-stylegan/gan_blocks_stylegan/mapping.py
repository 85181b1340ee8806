"""The mapping network."""

from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks import EqualizedLinear, PixelNorm, block, distributed
from gan_blocks.authoring import Averaging, check_tensor
from gan_blocks.labels import labels_for
from gan_blocks.precision import at_least_float32, without_autocast
from gan_blocks.types import DecayRate, NonNegativeInt, PositiveFloat, PositiveInt
from gan_blocks_stylegan.common import activated


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class MappingNetwork(Averaging):
    r"""Maps latent vectors to styles, a space that need not be filled as a Gaussian fills it.

    $$w = f_d(\cdots f_1(z / \sqrt{\textstyle\frac1n \sum_j z_j^2 + \epsilon})), \qquad
      f(x) = \sqrt2\; \mathrm{lrelu}_{0.2}(A x + b),$$

    with linear maps of equalised learning rate that learn at `lr_multiplier` of the others' speed. With
    classes a learned vector of `w_dim`, normalised likewise, is appended to the normalised $z$.

    Under autocast it computes in the precision of its weights, as the authors have it.

    **Truncation.** The layer averages its styles over the steps of training, from 0:
    $\bar w \leftarrow \beta \bar w + (1 - \beta)\, \mathbb{E}\, w$, with the mean over all styles since
    the last step and all processes. Call `gan_blocks.follow(optimizer, generator)` once, with the
    optimizer of the generator. Then [`truncate`][gan_blocks_stylegan.MappingNetwork.truncate] draws
    styles towards the average: less variety, better images.

    Args:
        latent_dim: Length $n$ of a latent vector $z \sim N(0, I)$.
        w_dim: Length of a style.
        depth: $d$, number of layers.
        lr_multiplier: Speed of learning relative to other layers.
        average_decay: $\beta$, for each step.
        num_classes: Number of classes; 0 for none.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, latent_dim)`, and labels `(N,)` with classes, to `(N, w_dim)`.

    Raises:
        ValueError: If latent vectors have another shape, or labels are missing or needless.

    Example:
        >>> import torch
        >>> mapping = MappingNetwork(latent_dim=16, w_dim=32, depth=2)
        >>> w = mapping(torch.randn(4, 16))
        >>> torch.equal(mapping.truncate(w, psi=0.0)[0], mapping.average)
        True

    Reference:
        Karras, Laine and Aila, "A Style-Based Generator Architecture", 2019, arXiv:1812.04948,
        section 2 and appendices B and C. The decay 0.995 is that of the code of StyleGAN and StyleGAN2;
        StyleGAN3's is 0.998. Classes as in the code of StyleGAN2-ADA (Karras et al., 2020,
        arXiv:2006.06676), which normalises both parts; StyleGAN2's normalises them as one vector.
    """

    average: Tensor

    wide_buffers = (*Averaging.wide_buffers, "average")  # an average stands still in half precision

    def __init__(
        self,
        latent_dim: PositiveInt = 512,
        w_dim: PositiveInt = 512,
        depth: PositiveInt = 8,
        lr_multiplier: PositiveFloat = 0.01,
        average_decay: DecayRate = 0.995,
        num_classes: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__((w_dim,), device=device)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.average_decay = average_decay
        self.norm = PixelNorm()
        if num_classes:
            self.classes = nn.Embedding(num_classes, w_dim, **options)
        first = latent_dim + (w_dim if num_classes else 0)
        self.layers = nn.ModuleList(
            EqualizedLinear(
                first if i == 0 else w_dim, w_dim, lr_multiplier=lr_multiplier, **options
            )
            for i in range(depth)
        )
        wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        self.register_buffer("average", torch.zeros(w_dim, device=device, dtype=wide))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return styles; in training mode their mean goes into the average at the next step."""
        w = self.map(z, labels)
        if self.training:
            self.pool(*distributed.mean_and_count(at_least_float32(w.detach()), 0))
        return w

    def commit(self, value: Tensor, seen: Tensor) -> None:
        """Move the average towards the mean of the styles since the last step."""
        new = torch.lerp(value.to(self.average), self.average, self.average_decay)
        self.average = torch.where(seen, new, self.average)

    def map(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return styles that do not go into the average."""
        check_tensor("z", z, of=self)
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(
                f"MappingNetwork takes latent vectors of shape (N, {self.latent_dim}), "
                f"got {tuple(z.shape)}"
            )
        x = self.norm(z.to(self.layers[0].weight.dtype))  # type: ignore[arg-type]
        for each in labels_for(self, labels, len(z)):
            x = torch.cat([x, self.norm(self.classes(each))], dim=1)
        # A small part of the work, but its rounding goes into all layers of the image.
        with without_autocast(x):
            for layer in self.layers:
                x = activated(layer(x))
        return x

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        r"""$\bar w + \psi (w - \bar w)$: the average at 0, the styles themselves at 1.

        Args:
            w: Styles of shape `(..., w_dim)`.
            psi: $\psi$.
        """
        return torch.lerp(self.average.to(w.dtype), w, psi)
