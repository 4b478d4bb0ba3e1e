"""What convolutional networks share: the shape of their images, and how far a convolution reduces them."""

from __future__ import annotations

from rhotrace.errors import RecipeError


def image_shape(kind: str, inputs: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of the samples.

    Raises:
        RecipeError: the samples are no images.
    """
    if len(inputs) != 3:
        raise RecipeError(
            f"network.kind: got {kind} and samples of shape ({', '.join(map(str, inputs))}), expected images (channels, "
            "height, width); give an npz file x of shape (N, channels, height, width), or use mlp"
        )
    channels, height, width = inputs
    return channels, height, width


def reduced(
    place: str, image: tuple[int, int, int], channels: int, kernel: int, stride: int, padding: int
) -> tuple[int, int, int]:
    """(channels, height, width) behind a convolution.

    Raises:
        RecipeError: the image is smaller than the kernel; ``place`` begins the message.
    """
    _, height, width = image
    if min(height, width) + 2 * padding < kernel:
        raise RecipeError(
            f"{place}: got an image of {height} x {width} and padding {padding} in front of it, expected at least the kernel, "
            f"{kernel} x {kernel}; use fewer convolutions, a smaller kernel or stride, or more padding"
        )
    return channels, (height + 2 * padding - kernel) // stride + 1, (width + 2 * padding - kernel) // stride + 1
