"""Noise between that of two seeds, as Automatic1111 computes it for its variation seed."""

from pathlib import Path

import common
import torch


def randn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def between(strength: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Spherical interpolation along axis 1 of (channels, height, width); linear for noises that are nearly the same."""
    unit = [x / torch.linalg.norm(x, dim=1, keepdim=True) for x in (low, high)]
    cosine = (unit[0] * unit[1]).sum(dim=1, keepdim=True)
    if cosine.mean() > 0.9995:
        return low + strength * (high - low)
    angle = torch.acos(cosine)
    return (torch.sin((1 - strength) * angle) * low + torch.sin(strength * angle) * high) / torch.sin(angle)


def variation(out: Path, seed: int) -> None:
    """variation.safetensors: two draws for each seed, and what lies between them."""
    shape, first, second = (16, 6, 10), 1000 * seed + 5, 1000 * seed + 77
    tensors = {}
    for name, strength in (("02", 0.2), ("05", 0.5), ("09", 0.9)):
        tensors[f"noise_{name}"] = between(strength, randn(shape, first), randn(shape, second))
    common.write(out / "variation.safetensors", tensors | {"seeds": torch.tensor([first, second])})
