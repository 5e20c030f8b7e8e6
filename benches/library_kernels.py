"""Milliseconds of cuDNN's convolutions and of attention by cuDNN and FlashAttention 2, through PyTorch.

The shapes are those of `cargo bench -p llm-dit-kernels --features cuda --bench cuda`, to be compared on
the same GPU: python3 benches/library_kernels.py
"""

import statistics

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# side of the picture, channels in and out, whether the picture is doubled first
CONVOLUTIONS = [
    (128, 16, 512, False),
    (128, 512, 512, False),
    (256, 512, 512, False),
    (256, 512, 512, True),
    (512, 512, 256, False),
    (512, 256, 256, False),
    (512, 256, 256, True),
    (1024, 256, 128, False),
    (1024, 128, 128, False),
    (1024, 128, 3, False),
]


def milliseconds(call, repeats: int = 20) -> float:
    """Median over five runs of the mean of `repeats` calls."""
    times = []
    for run in range(6):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        if run:
            times.append(start.elapsed_time(end) / repeats)
    return statistics.median(times)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").bfloat16()


def main() -> None:
    torch.backends.cudnn.benchmark = True
    print(torch.cuda.get_device_name(), "cuDNN", torch.backends.cudnn.version())
    channels_last = {"memory_format": torch.channels_last}
    for side, ins, outs, doubled in CONVOLUTIONS:
        x = random(1, ins, side, side).contiguous(**channels_last)
        weight, bias = random(outs, ins, 3, 3).contiguous(**channels_last), random(outs)

        def convolution():
            wide = F.interpolate(x, scale_factor=2, mode="nearest") if doubled else x
            return F.conv2d(wide, weight, bias, padding=1)

        name = f"conv {side}, {ins} to {outs}{', doubled' if doubled else ''}: cuDNN"
        print(f"{name:44} {milliseconds(convolution):8.4f} ms")
    for tokens in (4224, 1152):
        q, k, v = (random(1, tokens, 30, 128).transpose(1, 2) for _ in range(3))
        for name, backend in (
            ("cuDNN", SDPBackend.CUDNN_ATTENTION),
            ("FlashAttention 2", SDPBackend.FLASH_ATTENTION),
        ):
            with sdpa_kernel(backend):
                time = milliseconds(lambda: F.scaled_dot_product_attention(q, k, v))
            print(f"{f'attention {tokens}: {name}':44} {time:8.4f} ms")


if __name__ == "__main__":
    main()
