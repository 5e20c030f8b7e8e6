"""What every golden script shares: paths, seeded random tensors, safetensors writing."""

import os
from pathlib import Path

# The oracle only reads local folders; it must never reach for the hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import save_file

REPO = Path(__file__).resolve().parents[2]
DEFAULT_MODEL = REPO / "models" / "demo"
DEFAULT_OUT = REPO / "tests" / "goldens"


def generator(seed: int) -> torch.Generator:
    """A CPU generator; the only source of randomness in these scripts."""
    return torch.Generator("cpu").manual_seed(seed)


def write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as contiguous CPU safetensors (f32 unless they are integers)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()
            assert torch.isfinite(tensor).all(), f"{path.name}: {name} is not finite"
        plain[name] = tensor.contiguous().clone()
    save_file(plain, str(path))
    print(f"{path.name}: {len(plain)} tensors, {path.stat().st_size} bytes", flush=True)
