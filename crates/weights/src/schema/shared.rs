//! Keys that a library writes into all its files.

use super::types::{Library, Rule};

type Keys = &'static [(&'static str, Rule)];

/// The tables of this library's own keys.
pub(super) fn keys(library: Library) -> &'static [Keys] {
    match library {
        Library::Diffusers => &[ANY],
        Library::Transformers => &[ANY, TRANSFORMERS],
        Library::Peft | Library::None => &[],
    }
}

const QUANTIZED: &str = "quantized weights are not read; use the model's f32, bf16 or f16 files";

/// Notes of either library. Types of weights are those of the file, and of `--dtype`.
const ANY: Keys = &[
    ("quantization_config", Rule::Never(QUANTIZED)),
    ("compression_config", Rule::Never(QUANTIZED)),
    ("transformers_version", Rule::Ignored),
    ("torch_dtype", Rule::Ignored),
    ("dtype", Rule::Ignored),
];

/// `PretrainedConfig` of transformers 4 and 5: about training, generation and other tasks.
const TRANSFORMERS: Keys = &[
    ("add_cross_attention", Rule::Only(&["false", "null"])),
    ("architectures", Rule::Ignored),
    ("attn_implementation", Rule::Ignored),
    ("auto_map", Rule::Never("code that comes with a model is not run")),
    ("bad_words_ids", Rule::Ignored),
    ("begin_suppress_tokens", Rule::Ignored),
    ("bos_token_id", Rule::Ignored),
    ("chunk_size_feed_forward", Rule::Ignored),
    ("cross_attention_hidden_size", Rule::Ignored),
    ("decoder_start_token_id", Rule::Ignored),
    ("diversity_penalty", Rule::Ignored),
    ("do_sample", Rule::Ignored),
    ("early_stopping", Rule::Ignored),
    ("encoder_no_repeat_ngram_size", Rule::Ignored),
    ("eos_token_id", Rule::Ignored),
    ("exponential_decay_length_penalty", Rule::Ignored),
    ("finetuning_task", Rule::Ignored),
    ("forced_bos_token_id", Rule::Ignored),
    ("forced_eos_token_id", Rule::Ignored),
    ("gradient_checkpointing", Rule::Ignored),
    ("id2label", Rule::Ignored),
    ("is_decoder", Rule::Ignored),
    ("is_encoder_decoder", Rule::Only(&["false", "null"])),
    ("label2id", Rule::Ignored),
    ("length_penalty", Rule::Ignored),
    ("max_length", Rule::Ignored),
    ("min_length", Rule::Ignored),
    ("name_or_path", Rule::Ignored),
    ("no_repeat_ngram_size", Rule::Ignored),
    ("num_beam_groups", Rule::Ignored),
    ("num_beams", Rule::Ignored),
    ("num_labels", Rule::Ignored),
    ("num_return_sequences", Rule::Ignored),
    ("output_attentions", Rule::Ignored),
    ("output_hidden_states", Rule::Ignored),
    ("output_scores", Rule::Ignored),
    ("pad_token_id", Rule::Ignored),
    ("prefix", Rule::Ignored),
    ("problem_type", Rule::Ignored),
    ("pruned_heads", Rule::Only(&["{}", "null"])),
    ("remove_invalid_values", Rule::Ignored),
    ("repetition_penalty", Rule::Ignored),
    ("return_dict", Rule::Ignored),
    ("return_dict_in_generate", Rule::Ignored),
    ("sep_token_id", Rule::Ignored),
    ("suppress_tokens", Rule::Ignored),
    ("task_specific_params", Rule::Ignored),
    ("temperature", Rule::Ignored),
    ("tf_legacy_loss", Rule::Ignored),
    ("tie_encoder_decoder", Rule::Ignored),
    ("tokenizer_class", Rule::Ignored),
    ("top_k", Rule::Ignored),
    ("top_p", Rule::Ignored),
    ("torchscript", Rule::Ignored),
    ("typical_p", Rule::Ignored),
    ("unsloth_fixed", Rule::Ignored),
    ("unsloth_version", Rule::Ignored),
    ("use_bfloat16", Rule::Ignored),
];
