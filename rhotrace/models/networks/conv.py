"""A bias-free convolutional ReLU network: strided convolutions, no pooling, and a last kernel over what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import Field, model_validator

from rhotrace.models.batch_normalisation import BatchNorm, BatchNormOptions
from rhotrace.models.component import fault
from rhotrace.models.convolution import image_shape, reduced
from rhotrace.models.network import NETWORKS, Applied, Block, Mode, Network

if TYPE_CHECKING:
    import torch

Channels = Annotated[int, Ge(1), Le(100_000)]


@NETWORKS.register
class ConvOptions(BatchNormOptions):
    """A convolutional ReLU network without biases; by default NetSimpleConv4 of Poggio and Liao's CBMM Memo 117.

    Every layer has degree 1 without batch normalisation. Then rho is the product of the norms of whole kernels, as
    tensors, and the memo's equations hold for it as they do for matrices.

    Attributes:
        channels: of each convolution; the last layer, over all that is left of the image, comes after them.
        kernel: side of the square kernels.
        stride: of the convolutions.
        padding: zeros on each side of the image, less than the kernel.
    """

    kind: Literal["conv"] = "conv"
    channels: Annotated[list[Channels], MinLen(1)] = Field(default=[32, 64, 128])
    kernel: Annotated[int, Ge(1), Le(1000)] = 3
    stride: Annotated[int, Ge(1), Le(1000)] = 2
    padding: Annotated[int, Ge(0)] = 1
    reads_images: ClassVar[bool] = True

    @model_validator(mode="after")
    def _every_kernel_sees_the_image(self) -> ConvOptions:
        if self.padding >= self.kernel:
            raise fault("padding", f"got {self.padding}, expected less than network.kernel = {self.kernel}")
        return self

    def build(self, inputs: tuple[int, ...], outputs: int) -> Conv:
        """The network for images (channels, height, width)."""
        image = image_shape(self.kind, inputs)
        return Conv(image, self.channels, self.kernel, self.stride, self.padding, outputs, self.normalisation)


class Conv(Network):
    """A bias-free convolutional ReLU network.

    Args:
        image: (channels, height, width) of the inputs.
        channels: of each convolution.
        kernel: side of the kernels.
        stride: of the convolutions.
        padding: zeros on each side.
        outputs: C.
        normalisation: between each convolution and its ReLU; None for nothing.

    Raises:
        RecipeError: the image is too small.
    """

    one_by_one: ClassVar[bool] = True

    def __init__(
        self,
        image: tuple[int, int, int],
        channels: list[int],
        kernel: int,
        stride: int,
        padding: int,
        outputs: int,
        normalisation: BatchNorm | None = None,
    ) -> None:
        self.image, self.stride, self.padding, self.normalisation = image, stride, padding, normalisation
        degree = normalisation.degree if normalisation else 1
        blocks: list[Block] = []
        left = image
        for number, width in enumerate(channels, 1):
            blocks.append(Block(f"W{number}", (width, left[0], kernel, kernel), degree=degree))
            blocks += normalisation.buffers(number, width) if normalisation else ()
            left = reduced(
                f"network.channels: convolution {number} of {len(channels)}", left, width, kernel, stride, padding
            )
        self.blocks = (*blocks, Block(f"W{len(channels) + 1}", (outputs, *left)))

    def apply(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode
    ) -> Applied:
        """The forward pass of one member; its features are the images behind each ReLU."""
        from torch.nn.functional import conv2d

        *kernels, last = parameters.values()
        h, features, after = x.reshape(len(x), *self.image), {}, {}
        for number, W in enumerate(kernels, 1):
            h = conv2d(h, W, stride=self.stride, padding=self.padding)
            if self.normalisation:
                h, new = self.normalisation(h, number, buffers, mode)
                after.update(new)
            features[f"h{number}"] = h = h.relu()
        return Applied(h.flatten(1) @ last.flatten(1).mT, features, after)
