//! What the configurations of a model's folder may say: each key is read, changes nothing, or is
//! refused by name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use llm_dit_params::{GenerateOptions, Scheduler};
use llm_dit_qwen3::EncoderOptions;
use llm_dit_testkit::repository;
use llm_dit_tests::{demo::Demo, goldens::Goldens};
use llm_dit_weights::{DeviceChoice, LoadError};
use llm_dit_z_image::{DiffusionOptions, defaults};
use serde_json::{Value, json};
use tempfile::TempDir;

const SCHEDULER: &str = "scheduler/scheduler_config.json";
const TRANSFORMER: &str = "transformer/config.json";
const VAE: &str = "vae/config.json";
const ENCODER: &str = "text_encoder/config.json";
const INDEX: &str = "model_index.json";

/// A copy of a model, whose weights are links where there are such.
fn copied(from: &Path) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    copy(from, folder.path());
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("a file");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copied");
        }
    }
}

/// The tiny model, with the tokenizer of the demo model.
struct Model(TempDir);

impl Model {
    fn new() -> Self {
        let folder = copied(&Goldens::tiny());
        copy(&repository("models/demo/tokenizer"), &folder.path().join("tokenizer"));
        Self(folder)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn config(&self, file: &str) -> Value {
        let text = fs::read_to_string(self.path(file)).expect("a configuration");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Loads all parts with this file in place of its own, and puts that back.
    fn load_with(&self, file: &str, text: &[u8]) -> Result<(), LoadError> {
        let before = fs::read(self.path(file)).expect("a configuration");
        fs::write(self.path(file), text).expect("written");
        let loaded = self.load();
        fs::write(self.path(file), before).expect("written");
        loaded
    }

    fn load(&self) -> Result<(), LoadError> {
        let (diffusion, encoder) = self.options();
        llm_dit_z_image::load(&diffusion)?;
        llm_dit_qwen3::load(&encoder)?;
        Ok(())
    }

    fn options(&self) -> (DiffusionOptions, EncoderOptions) {
        let (model_path, device) = (self.0.path().to_owned(), DeviceChoice::Cpu);
        let encoder =
            EncoderOptions { model_path: model_path.clone(), device, ..Default::default() };
        (DiffusionOptions { model_path, device, ..Default::default() }, encoder)
    }

    fn set(&self, file: &str, key: &str, value: &Value) -> Result<(), LoadError> {
        let mut config = self.config(file);
        config[key] = value.clone();
        self.load_with(file, config.to_string().as_bytes())
    }
}

#[test]
fn what_would_draw_something_else_is_refused_by_name() {
    let model = Model::new();
    model.load().expect("as it is");
    let not_this = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
    for (file, key, value) in [
        (SCHEDULER, "invert_sigmas", json!(true)),
        (SCHEDULER, "num_train_timesteps", json!(500)),
        (SCHEDULER, "shift_terminal", json!(0.1)),
        (SCHEDULER, "use_dynamic_shifting", json!(true)),
        (SCHEDULER, "use_karras_sigmas", json!(true)),
        (SCHEDULER, "use_exponential_sigmas", json!(true)),
        (SCHEDULER, "use_beta_sigmas", json!(true)),
        (SCHEDULER, "stochastic_sampling", json!(true)),
        (SCHEDULER, "shift", json!("3.0")),
        (SCHEDULER, "shift", json!(0)),
        (SCHEDULER, "_class_name", json!("DDIMScheduler")),
        (SCHEDULER, "_class_name", json!("FlowMatchLCMScheduler")),
        (SCHEDULER, "flow_shift", json!(3.0)),
        (SCHEDULER, "never_heard_of", json!(1)),
        (TRANSFORMER, "_class_name", json!("Lumina2Transformer2DModel")),
        (TRANSFORMER, "qk_norm", json!(false)),
        (TRANSFORMER, "siglip_feat_dim", json!(1152)),
        (TRANSFORMER, "n_layers", json!("3")),
        (TRANSFORMER, "dim", json!(-48)),
        (TRANSFORMER, "axes_lens", json!([1536, 512, 0.5])),
        (TRANSFORMER, "quantization_config", not_this.clone()),
        (TRANSFORMER, "gelu", json!(true)),
        (VAE, "_class_name", json!("AutoencoderKLQwenImage")),
        (VAE, "act_fn", json!("gelu")),
        (VAE, "act_fn", json!("relu")),
        (VAE, "use_quant_conv", json!(true)),
        (VAE, "use_post_quant_conv", json!(true)),
        (VAE, "mid_block_add_attention", json!(false)),
        (VAE, "down_block_types", json!(vec!["AttnDownEncoderBlock2D"; 4])),
        (VAE, "up_block_types", json!(vec!["AttnUpDecoderBlock2D"; 4])),
        (VAE, "latents_mean", json!([0.1, 0.2])),
        (VAE, "latents_std", json!([0.1, 0.2])),
        (VAE, "scaling_factor", json!(null)),
        (VAE, "quantization_config", not_this.clone()),
        (VAE, "use_mystery", json!(false)),
        (ENCODER, "model_type", json!("qwen3_moe")),
        (ENCODER, "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
        (ENCODER, "rope_scaling", json!({"type": "linear", "factor": 2.0})),
        (ENCODER, "rope_parameters", json!({"rope_type": "llama3", "rope_theta": 1e6})),
        (ENCODER, "rope_parameters", json!({"rope_theta": 5e6})),
        (ENCODER, "use_sliding_window", json!(true)),
        (ENCODER, "layer_types", json!(["full_attention", "sliding_attention", "full_attention"])),
        (ENCODER, "hidden_act", json!("gelu")),
        (ENCODER, "attention_bias", json!(true)),
        (ENCODER, "hidden_size", json!(40.5)),
        (ENCODER, "rope_theta", json!(-1)),
        (ENCODER, "auto_map", json!({"AutoModel": "modeling.MyQwen"})),
        (ENCODER, "quantization_config", not_this.clone()),
        (ENCODER, "mlp_bias", json!(true)),
        (INDEX, "_class_name", json!("FluxPipeline")),
        (INDEX, "transformer", json!(["diffusers", "FluxTransformer2DModel"])),
        (INDEX, "vae", json!(["diffusers", "AutoencoderTiny"])),
        (INDEX, "text_encoder", json!(["transformers", "T5EncoderModel"])),
        (INDEX, "tokenizer", json!(["transformers", "T5TokenizerFast"])),
        (INDEX, "scheduler", json!(["diffusers", "DDIMScheduler"])),
        (INDEX, "controlnet", json!(["diffusers", "ZImageControlNetModel"])),
        (INDEX, "quantization_config", not_this),
    ] {
        let error = model.set(file, key, &value).expect_err(&format!("{file}: {key}: {value}"));
        let said = error.to_string();
        let named = if said.contains(&format!("'{key}'")) { key } else { "rope_theta" };
        assert!(said.contains(named), "{key}: {value}: {said}");
        assert!(said.contains(file), "{said}");
        for word in ["u32", "u64", "usize", "f64", "struct ", "enum ", "at line"] {
            assert!(!said.contains(word), "{word}: {said}");
        }
    }
    model.load().expect("as it was");
}

#[test]
fn what_changes_nothing_is_passed_over() {
    let model = Model::new();
    for (file, key, value) in [
        (SCHEDULER, "invert_sigmas", json!(false)),
        (SCHEDULER, "shift_terminal", json!(null)),
        (SCHEDULER, "time_shift_type", json!("linear")),
        (SCHEDULER, "base_shift", json!(0.7)),
        (SCHEDULER, "_note", json!("x")),
        (TRANSFORMER, "_name_or_path", json!("Tongyi-MAI/Z-Image-Turbo")),
        (TRANSFORMER, "quantization_config", json!(null)),
        (VAE, "act_fn", json!("swish")),
        (VAE, "force_upcast", json!(false)),
        (VAE, "sample_size", json!([64, 64])),
        (ENCODER, "rope_scaling", json!({"rope_type": "default"})),
        (ENCODER, "rope_parameters", json!({"rope_type": "default", "rope_theta": 1e6})),
        (ENCODER, "layer_types", json!(vec!["full_attention"; 3])),
        (ENCODER, "sliding_window", json!(4096)),
        (ENCODER, "tie_word_embeddings", json!(false)),
        (ENCODER, "dtype", json!("bfloat16")),
        (ENCODER, "pad_token_id", json!(0)),
        (INDEX, "_name_or_path", json!("x")),
        (INDEX, "text_encoder", json!(["transformers", "Qwen3ForCausalLM"])),
        (INDEX, "tokenizer", json!(["transformers", "Qwen2TokenizerFast"])),
    ] {
        model.set(file, key, &value).unwrap_or_else(|e| panic!("{file}: {key}: {value}: {e}"));
    }
}

/// As `save_pretrained` writes them, every default spelled out.
#[test]
fn whole_dumps_of_the_libraries_load() {
    let model = Model::new();
    let scheduler = json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.42.1",
        "base_image_seq_len": 256, "base_shift": 0.5, "invert_sigmas": false,
        "max_image_seq_len": 4096, "max_shift": 1.15, "num_train_timesteps": 1000, "shift": 3.0,
        "shift_terminal": null, "stochastic_sampling": false, "time_shift_type": "exponential",
        "use_beta_sigmas": false, "use_dynamic_shifting": false, "use_exponential_sigmas": false,
        "use_karras_sigmas": false,
    });
    let index = json!({
        "_class_name": "ZImagePipeline", "_diffusers_version": "0.36.0.dev0",
        "_name_or_path": "Tongyi-MAI/Z-Image-Turbo",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3Model"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "ZImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    let mut vae = model.config(VAE);
    for (key, value) in [("_name_or_path", json!("flux-dev")), ("latents_mean", json!(null))] {
        vae[key] = value;
    }
    let mut encoder = model.config(ENCODER);
    let dump = json!({
        "_attn_implementation_autoset": true, "return_dict": true, "output_hidden_states": false,
        "torchscript": false, "dtype": "bfloat16", "use_bfloat16": false, "pruned_heads": {},
        "tie_encoder_decoder": false, "chunk_size_feed_forward": 0, "is_encoder_decoder": false,
        "is_decoder": false, "add_cross_attention": false, "max_length": 20, "min_length": 0,
        "do_sample": false, "num_beams": 1, "temperature": 1.0, "top_k": 50, "top_p": 1.0,
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "tokenizer_class": null,
        "problem_type": null, "layer_types": vec!["full_attention"; 3], "rope_scaling": null,
        "use_sliding_window": false, "sliding_window": null, "max_window_layers": 36,
        "transformers_version": "4.57.1", "pad_token_id": null, "attention_dropout": 0.0,
    });
    for (key, value) in dump.as_object().expect("an object") {
        encoder[key] = value.clone();
    }
    for (file, config) in [(SCHEDULER, scheduler), (INDEX, index), (VAE, vae), (ENCODER, encoder)] {
        let loaded = model.load_with(file, config.to_string().as_bytes());
        loaded.unwrap_or_else(|e| panic!("{file}: {e}"));
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_configuration() {
    let model = Model::new();
    let files = [
        SCHEDULER,
        TRANSFORMER,
        VAE,
        ENCODER,
        INDEX,
        "text_encoder/model.safetensors.index.json",
        "tokenizer/tokenizer.json",
    ];
    for file in files {
        let text = fs::read_to_string(model.path(file)).expect("text");
        model.load_with(file, format!("\u{feff}{text}").as_bytes()).expect(file);
        let wide: Vec<u8> =
            format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        let said = model.load_with(file, &wide).expect_err(file).to_string();
        assert!(said.contains("UTF-16") && said.contains("UTF-8"), "{said}");
        let said = model.load_with(file, &text.as_bytes()[..text.len() / 2]).expect_err(file);
        let (said, name) = (said.to_string(), file.rsplit('/').next().expect("a name"));
        assert!(said.contains(name) || file.contains("tokenizer"), "{said}");
        let said = model.load_with(file, b"[1, 2]").expect_err(file).to_string();
        assert!(!said.contains("struct"), "{said}");
    }
}

#[test]
fn a_key_that_is_missing_is_named() {
    let model = Model::new();
    for (file, key) in [
        (TRANSFORMER, "dim"),
        (TRANSFORMER, "t_scale"),
        (VAE, "scaling_factor"),
        (VAE, "use_quant_conv"),
        (ENCODER, "vocab_size"),
        (ENCODER, "rms_norm_eps"),
        ("text_encoder/model.safetensors.index.json", "weight_map"),
    ] {
        let mut config = model.config(file);
        config.as_object_mut().expect("an object").remove(key);
        let said = model.load_with(file, config.to_string().as_bytes()).expect_err(key).to_string();
        assert!(said.contains(&format!("'{key}' is missing")) && said.contains(file), "{said}");
    }
}

/// A class of diffusers that one of ours computes as.
#[test]
fn a_schedulers_class_selects_ours_and_its_shift() {
    let model = Model::new();
    let select = |config: &Value| {
        fs::write(model.path(SCHEDULER), config.to_string()).expect("written");
        defaults(&model.options().0).map(|defaults| (defaults.scheduler, defaults.shift))
    };
    let unipc = json!({
        "_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction",
        "use_flow_sigmas": true, "flow_shift": 5.0,
    });
    assert_eq!(select(&unipc).expect("known"), (Scheduler::UniPc, 5.0));
    let dump = json!({
        "_class_name": "UniPCMultistepScheduler", "_diffusers_version": "0.42.1",
        "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02,
        "beta_schedule": "linear", "trained_betas": null, "solver_order": 2,
        "prediction_type": "flow_prediction", "thresholding": false,
        "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "predict_x0": true,
        "solver_type": "bh2", "lower_order_final": true, "disable_corrector": [],
        "solver_p": null, "use_karras_sigmas": false, "use_exponential_sigmas": false,
        "use_beta_sigmas": false, "use_flow_sigmas": true, "flow_shift": 6.0,
        "timestep_spacing": "linspace", "steps_offset": 0, "final_sigmas_type": "zero",
        "rescale_betas_zero_snr": false, "use_dynamic_shifting": false,
        "time_shift_type": "exponential", "sigma_min": null, "sigma_max": null,
        "shift_terminal": null,
    });
    assert_eq!(select(&dump).expect("known"), (Scheduler::UniPc, 6.0));
    let heun = json!({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 2.0});
    assert_eq!(select(&heun).expect("known"), (Scheduler::FlowHeun, 2.0));
    let unsaid = json!({"_class_name": "FlowMatchEulerDiscreteScheduler"});
    assert_eq!(select(&unsaid).expect("known"), (Scheduler::FlowEuler, 1.0), "the class's own");
    // As Python writes it.
    let dpm = r#"{
        "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++",
        "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
        "dynamic_thresholding_ratio": 0.995, "euler_at_final": false,
        "final_sigmas_type": "zero", "flow_shift": 3.0, "lambda_min_clipped": -Infinity,
        "lower_order_final": true, "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction", "rescale_betas_zero_snr": false,
        "sample_max_value": 1.0, "solver_order": 2, "solver_type": "midpoint",
        "steps_offset": 0, "thresholding": false, "time_shift_type": "exponential",
        "timestep_spacing": "linspace", "trained_betas": null, "use_beta_sigmas": false,
        "use_dynamic_shifting": false, "use_exponential_sigmas": false, "use_flow_sigmas": true,
        "use_karras_sigmas": false, "use_lu_lambdas": false, "variance_type": null
    }"#;
    fs::write(model.path(SCHEDULER), dpm).expect("written");
    let selected = defaults(&model.options().0).expect("known");
    assert_eq!((selected.scheduler, selected.shift), (Scheduler::DpmSolver, 3.0));

    for (key, value) in [
        ("solver_order", json!(3)),
        ("solver_type", json!("bh1")),
        ("prediction_type", json!("epsilon")),
        ("use_flow_sigmas", json!(false)),
        ("use_karras_sigmas", json!(true)),
        ("predict_x0", json!(false)),
        ("disable_corrector", json!([0])),
        ("final_sigmas_type", json!("sigma_min")),
        ("lower_order_final", json!(false)),
        ("num_train_timesteps", json!(999)),
        ("thresholding", json!(true)),
    ] {
        let mut config = dump.clone();
        config[key] = value;
        let said = select(&config).expect_err(key).to_string();
        assert!(said.contains(&format!("'{key}'")) && said.contains("UniPC"), "{said}");
    }
    for key in ["prediction_type", "use_flow_sigmas"] {
        let mut config = dump.clone();
        config.as_object_mut().expect("an object").remove(key);
        let said = select(&config).expect_err(key).to_string();
        assert!(said.contains(&format!("'{key}' is missing")), "{said}");
    }
}

#[test]
fn the_selected_scheduler_draws() {
    let folder = copied(&repository("models/demo"));
    let (model_path, device) = (folder.path().to_owned(), DeviceChoice::Cpu);
    let open = || {
        Demo::open(
            &EncoderOptions { model_path: model_path.clone(), device, ..Default::default() },
            &DiffusionOptions { model_path: model_path.clone(), device, ..Default::default() },
        )
    };
    let asked = |scheduler: Option<&str>, shift: Option<f64>| GenerateOptions {
        width: Some(64),
        height: Some(64),
        steps: Some(3),
        seed: Some(1),
        scheduler: scheduler.map(str::to_owned),
        shift,
        ..Default::default()
    };
    let expected = open().draw("a rocket", "", asked(Some("unipc"), Some(5.0)));
    let config = json!({
        "_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction",
        "use_flow_sigmas": true, "flow_shift": 5.0,
    });
    fs::write(model_path.join(SCHEDULER), config.to_string()).expect("written");
    assert!(open().draw("a rocket", "", asked(None, None)) == expected);
}

/// A part that is given by itself is not the index's matter.
#[test]
fn the_index_is_not_asked_about_parts_from_elsewhere() {
    let model = Model::new();
    let mut index = model.config(INDEX);
    index["transformer"] = json!(["diffusers", "FluxTransformer2DModel"]);
    index["text_encoder"] = json!(["transformers", "T5EncoderModel"]);
    fs::write(model.path(INDEX), index.to_string()).expect("written");
    let (mut diffusion, mut encoder) = model.options();
    diffusion.dit_path = Some(Goldens::tiny().join("transformer"));
    llm_dit_z_image::load(&diffusion).expect("loads");
    encoder.text_encoder_path = Some(Goldens::tiny().join("text_encoder"));
    llm_dit_qwen3::load(&encoder).expect("loads");
}
