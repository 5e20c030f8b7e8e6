"""A diffusers folder with random weights and small odd shapes, in which every term matters.

A trained model hides mistakes: its pad tokens, gates and biases may be close to what a wrong
implementation uses instead. Here norms are away from one, biases and pad tokens away from zero,
modulation is strong, and activations stay of order one.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from common import generator

TEXT_ENCODER = dict(
    vocab_size=300, hidden_size=40, intermediate_size=72, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, hidden_act="silu", max_position_embeddings=40960, rms_norm_eps=1e-6,
    rope_theta=1000000.0, attention_bias=False, attention_dropout=0.0, tie_word_embeddings=True,
)
TRANSFORMER = dict(
    all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=48, n_layers=3, n_refiner_layers=1, n_heads=2,
    n_kv_heads=2, norm_eps=1e-5, qk_norm=True, cap_feat_dim=40, rope_theta=256.0, t_scale=1000.0,
    axes_dims=[8, 8, 8], axes_lens=[1536, 512, 512],
)
VAE = dict(
    in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(8, 16, 16, 24), layers_per_block=1, act_fn="silu",
    latent_channels=16, norm_num_groups=4, sample_size=64, scaling_factor=0.5109, shift_factor=0.0143,
    use_quant_conv=False, use_post_quant_conv=False, force_upcast=True, mid_block_add_attention=True,
)
# The real checkpoints carry these keys as plain numbers; newer transformers would write them nested.
TEXT_ENCODER_FILE = dict(
    architectures=["Qwen3ForCausalLM"], model_type="qwen3", use_sliding_window=False, sliding_window=None,
    max_window_layers=3, initializer_range=0.02, use_cache=True, rope_scaling=None, torch_dtype="float32",
    bos_token_id=270, eos_token_id=272, **TEXT_ENCODER,
)


def randomize(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fill every parameter: matrices by fan-in, norms around one, biases and pad tokens around zero."""
    g = generator(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=g)
            if name.endswith("pad_token"):
                p.copy_(noise)
            elif "embed_tokens" in name:
                p.copy_(noise)
            elif name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif p.ndim == 1:
                p.copy_(1.0 + 0.3 * noise)
            else:
                # Modulation sees a small embedding, so it gets a larger gain to keep gates spread out.
                gain = 2.0 if "adaLN" in name else 1.0
                p.copy_(gain * noise / p[0].numel() ** 0.5)
    return model.eval()


def save_sharded(state: dict[str, torch.Tensor], folder: Path, shards: int) -> None:
    """Write `state` as numbered shards with the index file that transformers reads."""
    names = sorted(state)
    cut = -(-len(names) // shards)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i * cut:(i + 1) * cut]
        save_file({n: state[n].contiguous() for n in part}, str(folder / file), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def build(folder: Path, like: Path, seed: int) -> None:
    """Write the tiny model to `folder`; index and scheduler config are copied from the model `like`."""
    text_folder = folder / "text_encoder"
    text_folder.mkdir(parents=True, exist_ok=True)
    text = randomize(Qwen3ForCausalLM(Qwen3Config(**TEXT_ENCODER)), seed * 10 + 1)
    state = {n: t for n, t in text.state_dict().items() if n.startswith("model.")}
    save_sharded(state, text_folder, 2)
    (text_folder / "config.json").write_text(json.dumps(TEXT_ENCODER_FILE, indent=2) + "\n")

    randomize(ZImageTransformer2DModel(**TRANSFORMER), seed * 10 + 2).save_pretrained(folder / "transformer")
    randomize(AutoencoderKL(**VAE), seed * 10 + 3).save_pretrained(folder / "vae")

    (folder / "scheduler").mkdir(exist_ok=True)
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        (folder / name).write_bytes((like / name).read_bytes())
