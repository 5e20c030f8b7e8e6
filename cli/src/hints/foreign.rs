//! Names that other programs have for our flags and commands.

/// Names of one thing elsewhere, and what it is here.
pub struct Foreign {
    /// Without dashes, in lower case, `-` for `_`. A name of one letter is a short flag.
    pub names: &'static [&'static str],
    /// Our flag; empty if there is none.
    pub flag: &'static str,
    /// What else to know.
    pub note: &'static str,
}

const fn to(flag: &'static str, names: &'static [&'static str]) -> Foreign {
    Foreign { names, flag, note: "" }
}

const fn note(flag: &'static str, note: &'static str, names: &'static [&'static str]) -> Foreign {
    Foreign { names, flag, note }
}

/// Of diffusers' scripts, stable-diffusion.cpp, sd-scripts, ComfyUI, InvokeAI, mflux, the Python
/// program, and what people type.
pub const FLAGS: &[Foreign] = &[
    to(
        "scheduler",
        &["sampler", "sampler-name", "sampling-method", "sample-method", "solver", "a"],
    ),
    note(
        "guidance-scale",
        "0 is without guidance, so it is one less than the scale of most programs",
        &["cfg", "cfg-scale", "guidance", "true-cfg-scale", "scale", "c"],
    ),
    to(
        "num-images",
        &[
            "n",
            "num",
            "count",
            "batch",
            "batch-size",
            "batch-count",
            "n-iter",
            "n-samples",
            "iterations",
            "images",
            "images-per-prompt",
            "num-images-per-prompt",
            "num-samples",
            "b",
        ],
    ),
    to("steps", &["sampling-steps", "sample-steps", "num-steps", "inference-steps", "ddim-steps"]),
    to("negative-prompt", &["negative", "neg", "neg-prompt", "uc", "n-prompt", "no"]),
    note(
        "width",
        "and --height, such as --width 512 --height 512",
        &["size", "resolution", "res", "dimensions", "aspect-ratio", "aspect", "ar"],
    ),
    to(
        "image",
        &[
            "init-image",
            "init-img",
            "init",
            "input-image",
            "input",
            "img",
            "img2img",
            "source-image",
            "image-path",
            "ref-image",
        ],
    ),
    to(
        "strength",
        &[
            "denoise",
            "denoising-strength",
            "denoising",
            "image-strength",
            "img-strength",
            "init-image-strength",
        ],
    ),
    to("mask", &["mask-image", "mask-path", "inpaint-mask"]),
    note(
        "lora",
        "the scale follows the path, such as --lora style.safetensors:0.8",
        &[
            "lora-scale",
            "lora-scales",
            "lora-weight",
            "lora-weights",
            "lora-strength",
            "lora-multiplier",
            "lora-path",
            "lora-paths",
            "loras",
        ],
    ),
    to("loras-dir", &["lora-dir", "lora-model-dir", "lora-folder"]),
    note(
        "model-path",
        "the model's folder",
        &[
            "model-dir",
            "model-id",
            "models-path",
            "ckpt",
            "checkpoint",
            "ckpt-path",
            "pretrained-model-name-or-path",
            "base-model",
            "repo",
        ],
    ),
    to("dit-path", &["dit", "transformer", "transformer-path", "unet", "diffusion-model"]),
    to("vae-path", &["vae", "ae"]),
    to("text-encoder-path", &["text-encoder", "clip", "clip-l", "llm", "qwen", "qwen3", "te"]),
    note("", "the prompt is no flag: llm-dit generate \"a red apple\"", &["prompt", "text", "p"]),
    to("prompts", &["prompt-file", "prompts-file", "prompt-list", "from-file"]),
    to("output", &["out", "outfile", "output-file", "output-path", "save", "filename", "file"]),
    to("output-dir", &["outdir", "out-dir", "output-folder", "save-dir"]),
    to("seed", &["manual-seed", "noise-seed", "random-seed", "rng-seed"]),
    note("shift", "", &["flow-shift", "time-shift", "timestep-shift"]),
    to(
        "dtype",
        &["torch-dtype", "precision", "type", "weight-type", "data-type", "mixed-precision"],
    ),
    note("dtype", "f16 or bf16", &["fp16", "bf16", "half", "half-precision"]),
    to(
        "cpu-offload",
        &[
            "offload",
            "offload-to-cpu",
            "lowvram",
            "low-vram",
            "medvram",
            "low-ram",
            "enable-model-cpu-offload",
            "sequential-cpu-offload",
        ],
    ),
    note("device", "auto, cpu, cuda, cuda:N or metal", &["gpu", "cuda", "cpu", "mps", "metal"]),
    to("vae-tiling", &["tiling", "tiled-vae", "vae-tile", "tile"]),
    to("force-think-block", &["think", "thinking"]),
    to("gateway", &["server", "server-url", "remote", "url", "endpoint"]),
    to("max-tokens", &["max-length", "max-sequence-length", "max-seq-len"]),
    to("quality", &["jpeg-quality", "jpg-quality"]),
    note("output", "the extension selects the format", &["format", "output-format", "extension"]),
    note("from", "an image of this program", &["metadata", "from-image", "recipe", "infotext"]),
    note(
        "",
        "all kernels are built in; leave it out",
        &["flash-attn", "flash-attention", "fa", "diffusion-fa", "xformers", "compile", "sdpa"],
    ),
    note("", "use the command: llm-dit encode \"a red apple\"", &["encoder-only"]),
    note("host", "", &["listen", "bind", "address", "listen-ip", "server-name"]),
    note("log-filter", "such as --log-filter debug", &["log-level", "loglevel"]),
    note("", "progress is shown unless -q is given", &["verbose", "v", "debug", "progress"]),
];

const COMMANDS: &[(&[&str], &str)] = &[
    (
        &["txt2img", "t2i", "img2img", "draw", "run", "create", "image", "imagine", "make", "gen"],
        "generate",
    ),
    (&["server", "web", "webui", "ui", "start", "api", "gateway"], "serve"),
    (&["cert", "certs", "tls"], "certificates"),
    (&["benchmark"], "bench"),
    (&["check", "info", "devices", "diagnose"], "doctor"),
    (&["download", "fetch", "get"], "pull"),
    (&["ls", "models", "cache"], "list"),
    (&["remove", "delete", "uninstall"], "rm"),
    (&["tokenize", "tokens", "chat"], "format"),
    (&["completion"], "completions"),
    (&["version"], "--version"),
];

/// What a flag is here; `name` is the flag without dashes, in our spelling.
pub fn find(flag: &str, name: &str) -> Option<&'static Foreign> {
    // A single dash before a word is a long flag of some programs.
    let is_short = !flag.starts_with("--") && name.chars().count() == 1;
    let fits = |known: &&str| *known == name && (known.len() == 1) == is_short;
    FLAGS.iter().find(|foreign| foreign.names.iter().any(fits))
}

/// Our command for another program's word.
pub fn command(word: &str) -> Option<&'static str> {
    let known = COMMANDS.iter().find(|(names, _)| names.contains(&word));
    known.map(|(_, command)| *command)
}
