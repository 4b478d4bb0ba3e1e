"""A bias-free residual convolutional network: strided convolutions, and ``h + W * relu(h)`` blocks between them.

A mixture of depths, as the residual multilayer perceptron is; see there for what rho means. The strided convolutions
and the last layer lie on every path and have degree 1. No degree is claimed for the layers of blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import Field, model_validator

from rhotrace.models.component import fault
from rhotrace.models.convolution import image_shape, reduced
from rhotrace.models.network import NETWORKS, Applied, Block, Mode, Network, NetworkOptions

if TYPE_CHECKING:
    import torch

Channels = Annotated[int, Ge(1), Le(100_000)]


@NETWORKS.register
class ResidualConvOptions(NetworkOptions):
    """A residual convolutional ReLU network without biases: the convolutions of ``conv``, each followed by blocks.

    Attributes:
        channels: of each strided convolution and of the blocks behind it.
        blocks: residual convolutions behind each strided one.
        kernel: side of the square kernels, an odd number.
        stride: of the convolutions outside blocks.
    """

    kind: Literal["residual-conv"] = "residual-conv"
    channels: Annotated[list[Channels], MinLen(1)] = Field(default=[16, 32, 64])
    blocks: Annotated[int, Ge(1), Le(1000)] = 1
    kernel: Annotated[int, Ge(1), Le(1000)] = 3
    stride: Annotated[int, Ge(1), Le(1000)] = 2
    reads_images: ClassVar[bool] = True

    @model_validator(mode="after")
    def _a_block_keeps_the_size(self) -> ResidualConvOptions:
        if self.kernel % 2 == 0:
            raise fault("kernel", f"got {self.kernel}, expected an odd number, by which a block keeps the image's size")
        return self

    def build(self, inputs: tuple[int, ...], outputs: int) -> ResidualConv:
        """The network for images (channels, height, width)."""
        image = image_shape(self.kind, inputs)
        return ResidualConv(image, self.channels, self.blocks, self.kernel, self.stride, outputs)


class ResidualConv(Network):
    """A residual convolutional network.

    Args:
        image: (channels, height, width) of the inputs.
        channels: of each strided convolution.
        blocks: behind each strided convolution.
        kernel: side of the kernels, odd; half of it, rounded down, is padded.
        stride: of the convolutions outside blocks.
        outputs: C.
    """

    one_by_one: ClassVar[bool] = True

    def __init__(
        self, image: tuple[int, int, int], channels: list[int], blocks: int, kernel: int, stride: int, outputs: int
    ) -> None:
        self.image, self.stride, self.padding = image, stride, kernel // 2
        layers: list[Block] = []
        left = image
        for width in channels:
            layers.append(Block(f"W{len(layers) + 1}", (width, left[0], kernel, kernel)))
            left = reduced("network.channels", left, width, kernel, stride, self.padding)
            layers += [
                Block(f"W{len(layers) + 1 + n}", (width, width, kernel, kernel), degree=None) for n in range(blocks)
            ]
        self.blocks = (*layers, Block(f"W{len(layers) + 1}", (outputs, *left)))

    def apply(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode
    ) -> Applied:
        """The forward pass of one member; its features are the images after each convolution outside and each block."""
        from torch.nn.functional import conv2d

        del buffers, mode
        *kernels, last = parameters.values()
        h, features = x.reshape(len(x), *self.image), {}
        for number, (block, W) in enumerate(zip(self.blocks, kernels, strict=False), 1):
            active = h if number == 1 else h.relu()
            if block.degree is None:
                h = h + conv2d(active, W, padding=self.padding)
            else:
                h = conv2d(active, W, stride=self.stride, padding=self.padding)
            features[f"h{number}"] = h
        return Applied(h.relu().flatten(1) @ last.flatten(1).mT, features)
