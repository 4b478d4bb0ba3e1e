"""The device that a run trains on."""

from __future__ import annotations

import os

from rhotrace.errors import DeviceError


def choose_device(name: str) -> str:
    """``cpu`` or ``cuda``, from the name that the user gave; ``auto`` is CUDA where torch finds it.

    Raises:
        DeviceError: CUDA was asked for and torch finds none.
    """
    import torch

    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda: torch finds no CUDA device; use --device cpu, or install a CUDA build of torch with its driver"
        )
    return "cuda"


def find_device(name: str) -> str:
    """The device to train on, with torch set to produce the same bits on it each time.

    Raises:
        DeviceError: see ``choose_device``.
    """
    device = choose_device(name)
    if device == "cuda":
        import torch

        # cuBLAS is deterministic only with a workspace of fixed size, set before its first call
        # (NVIDIA, cuBLAS documentation, "Results Reproducibility").
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
        without_tf32()
    return device


def without_tf32() -> None:
    """Keeps products of float32 numbers on a GPU in float32: torch rounds the factors of convolutions to ten bits otherwise."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
