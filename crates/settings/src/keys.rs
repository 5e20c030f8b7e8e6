//! Every key that a configuration file may hold, and the flag it stands for.
//!
//! The names are those of the Python program's files, which must load unchanged; where it had two
//! names for one thing, both are here.

/// One key of a profile, or of the global `[server]` table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Table and name, as in `generation.height`. `server.` is global, all else is in a profile.
    pub path: &'static str,
    pub kind: Kind,
    pub used: Use,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Relative to the file's folder; a leading `~/` is the home folder.
    Path,
    /// As [`Kind::Path`] if there is something; else as it stands, since it can be the name of a
    /// downloaded model.
    Model,
    Integer,
    Number,
    Switch,
    Texts,
    Numbers,
    /// An array of tables `{ path, scale, trigger_words, enabled }`.
    LoraEntries,
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The default of the flag with this id.
    Flag(&'static str),
    /// As [`Use::Flag`], under a second name: `config show` prints the first.
    Alias(&'static str),
    /// Only these values are supported; others are refused with the reason.
    Only(&'static [&'static str], &'static str),
    /// Accepted, since old files have it, and of no effect, for this reason.
    Nothing(&'static str),
    /// Goes into the list of LoRAs.
    Lora,
}

use {Kind::*, Use::*};

const fn key(path: &'static str, kind: Kind, used: Use) -> Key {
    Key { path, kind, used }
}

const UNQUANTIZED: &str = "weights are not quantized while they are loaded; use \"none\", and a quantized file as text_encoder_path";
const NO_CODE: &str = "code in model folders is never run";
const ALL_PARTS: &str = "optimization.cpu_offload applies to all parts";
const WHOLE_PARTS: &str =
    "parts are offloaded whole, not layer by layer; use optimization.cpu_offload";
const FUSED: &str = "all kernels are built in";

/// In the order in which `config show` prints them.
pub const KEYS: &[Key] = &[
    key("model_path", Model, Flag("model_path")),
    key("dit_path", Model, Flag("dit_path")),
    key("text_encoder_path", Model, Flag("text_encoder_path")),
    key("vae_path", Model, Flag("vae_path")),
    key("comfyui", Path, Flag("comfyui")),
    key("templates_dir", Path, Flag("templates_dir")),
    key("encoder.device", Text, Alias("text_encoder_device")),
    key("encoder.torch_dtype", Text, Flag("text_encoder_dtype")),
    key("encoder.max_length", Integer, Flag("max_tokens")),
    key("encoder.truncate", Text, Flag("truncate")),
    key("encoder.hidden_layer", Integer, Flag("hidden_layer")),
    key("encoder.cpu_offload", Switch, Nothing(ALL_PARTS)),
    key("encoder.quantization", Text, Only(&["none"], UNQUANTIZED)),
    key("encoder.load_in_8bit", Switch, Only(&["false"], UNQUANTIZED)),
    key("encoder.load_in_4bit", Switch, Only(&["false"], UNQUANTIZED)),
    key("encoder.trust_remote_code", Switch, Nothing(NO_CODE)),
    key("devices.text_encoder", Text, Flag("text_encoder_device")),
    key("devices.dit", Text, Flag("dit_device")),
    key("devices.vae", Text, Flag("vae_device")),
    key("devices.text_encoder_device", Text, Alias("text_encoder_device")),
    key("devices.dit_device", Text, Alias("dit_device")),
    key("devices.vae_device", Text, Alias("vae_device")),
    key("pipeline.device", Text, Flag("device")),
    key("pipeline.torch_dtype", Text, Flag("dtype")),
    key("pipeline.vae_dtype", Text, Flag("vae_dtype")),
    key("pipeline.vae_tiling", Text, Flag("vae_tiling")),
    key("pipeline.enable_model_cpu_offload", Switch, Alias("cpu_offload")),
    key("pipeline.enable_sequential_cpu_offload", Switch, Only(&["false"], WHOLE_PARTS)),
    key("generation.height", Integer, Flag("height")),
    key("generation.width", Integer, Flag("width")),
    key("generation.steps", Integer, Flag("steps")),
    key("generation.num_inference_steps", Integer, Alias("steps")),
    key("generation.guidance_scale", Number, Flag("guidance_scale")),
    key("generation.negative_prompt", Text, Flag("negative_prompt")),
    key("generation.cfg_normalization", Number, Flag("cfg_normalization")),
    key("generation.cfg_truncation", Number, Flag("cfg_truncation")),
    key("generation.seed", Integer, Flag("seed")),
    key("generation.variation_seed", Integer, Flag("variation_seed")),
    key("generation.variation_strength", Number, Flag("variation_strength")),
    key("generation.num_images", Integer, Flag("num_images")),
    key("generation.strength", Number, Flag("strength")),
    key("generation.enable_thinking", Switch, Flag("enable_thinking")),
    key("generation.default_template", Text, Flag("template")),
    key("generation.template", Text, Alias("template")),
    key("generation.system_prompt", Text, Flag("system_prompt")),
    key("generation.output", Path, Flag("output")),
    key("scheduler.type", Text, Flag("scheduler")),
    key("scheduler.shift", Number, Flag("shift")),
    key("lora.loras_dir", Path, Flag("loras_dir")),
    key("lora.entries", LoraEntries, Lora),
    key("lora.paths", Texts, Lora),
    key("lora.scales", Numbers, Lora),
    key("optimization.cpu_offload", Switch, Flag("cpu_offload")),
    key("optimization.weights", Text, Flag("weights")),
    key("optimization.max_vram", Text, Flag("max_vram")),
    key("optimization.max_batch", Integer, Flag("max_batch")),
    key("optimization.flash_attn", Switch, Nothing(FUSED)),
    key("optimization.compile", Switch, Nothing(FUSED)),
    key("api.url", Text, Flag("api_url")),
    key("api.model", Text, Flag("api_model")),
    key("gateway.url", Text, Flag("gateway")),
    key("gateway.key_file", Path, Flag("gateway_key_file")),
    key("gateway.ca", Path, Flag("gateway_ca")),
    key("gateway.jobs_max", Integer, Flag("jobs_max")),
    key("gateway.jobs_days", Integer, Flag("jobs_days")),
    key("gateway.job_attempts", Integer, Flag("job_attempts")),
    key("gateway.job_crashes", Integer, Flag("job_crashes")),
    key("hub.home", Path, Flag("hf_home")),
    key("hub.cache", Path, Flag("hf_hub_cache")),
    key("hub.endpoint", Text, Flag("hf_endpoint")),
    key("hub.token_path", Path, Flag("hf_token_path")),
    key("hub.offline", Switch, Flag("hf_hub_offline")),
    key("telemetry.otlp_endpoint", Text, Flag("otlp_endpoint")),
    key("server.host", Text, Flag("host")),
    key("server.port", Integer, Flag("port")),
    key("server.grace", Integer, Flag("grace")),
    key("server.tls_cert", Path, Flag("tls_cert")),
    key("server.tls_key", Path, Flag("tls_key")),
    key("server.tls_client_ca", Path, Flag("tls_client_ca")),
    key("server.keys", Path, Flag("keys")),
    key("server.insecure", Switch, Flag("insecure")),
    key("server.max_connections", Integer, Flag("max_connections")),
    key("server.max_memory", Text, Flag("max_memory")),
    key("server.cors_origins", Texts, Flag("cors_origins")),
    key("server.allowed_hosts", Texts, Flag("allowed_hosts")),
    key("server.trusted_proxies", Texts, Flag("trusted_proxies")),
    key("server.model_aliases", Texts, Flag("model_aliases")),
    key("server.request_timeout", Number, Flag("request_timeout")),
];

/// Keys of one entry of `lora.entries`.
pub(crate) const LORA_ENTRY: [&str; 6] =
    ["path", "scale", "blocks", "pass", "trigger_words", "enabled"];

impl Key {
    pub(crate) fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The flag that the value ends in, for the kinds that end in one.
    pub fn flag(&self) -> Option<&'static str> {
        match self.used {
            Flag(id) | Alias(id) => Some(id),
            Only(..) | Nothing(_) | Lora => None,
        }
    }
}

impl Kind {
    /// As error messages call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Text | Path | Model => "a string",
            Integer => "a whole number",
            Number => "a number",
            Switch => "true or false",
            Texts => "an array of strings",
            Numbers => "an array of numbers",
            LoraEntries => "an array of tables",
        }
    }
}

/// The table of a profile that has a key of this name.
pub(crate) fn table_of(name: &str) -> Option<&'static str> {
    KEYS.iter().filter_map(|key| key.path.split_once('.')).find(|(_, n)| *n == name).map(|(t, _)| t)
}

/// True for a table that profiles have.
pub(crate) fn is_table(name: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}
