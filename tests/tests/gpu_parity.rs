//! The models on a GPU in bf16, against diffusers and transformers in float32.
//!
//! Needs an NVIDIA GPU: `cargo test --release -p llm-dit-tests --features cuda --test gpu_parity`.
#![cfg(feature = "cuda")]

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use encoder_service::engine::EncodeJob;
use llm_dit_device::{Capability, Emulation, cuda_device, emulate};
use llm_dit_proto::DType as Wire;
use llm_dit_qwen3::EncoderOptions;
use llm_dit_testkit::repository;
use llm_dit_tests::{
    demo::{Demo, blueprint},
    goldens::{Goldens, relative_error},
};
use llm_dit_weights::DeviceChoice;
use llm_dit_z_image::{DiffusionOptions, dit::Dit, load_dit};

/// In dB, over all channels of 8-bit pixels.
const BOUND: f64 = 35.0;

/// What the GPU plays: itself, and cards of other kernels, with cuDNN and without.
const PLAYED: [Emulation; 4] = [
    Emulation::NONE,
    Emulation::of(Capability::AMPERE),
    Emulation { capability: Some(Capability::new(8, 6)), cudnn: false },
    // Without bf16: f16 weights, and all but products is composed, in f32.
    Emulation::of(Capability::TURING),
];

/// Devices are opened one test at a time, since what they play then is the process's.
fn played<T>(emulation: Emulation, open: impl FnOnce() -> T) -> T {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    emulate(emulation);
    let opened = open();
    emulate(Emulation::NONE);
    opened
}

fn demo(emulation: Emulation, change: impl FnOnce(&mut DiffusionOptions)) -> Demo {
    let (model_path, device) = (repository("models/demo"), DeviceChoice::Cuda(0));
    let encoder = EncoderOptions { model_path: model_path.clone(), device, ..Default::default() };
    let mut diffusion = DiffusionOptions { model_path, device, ..Default::default() };
    change(&mut diffusion);
    played(emulation, || Demo::open(&encoder, &diffusion))
}

fn check(demo: &mut Demo, index: &str, name: &str) {
    let decibels = demo.compare(index);
    let worst = decibels.iter().copied().fold(f64::INFINITY, f64::min);
    let mean = decibels.iter().sum::<f64>() / decibels.len() as f64;
    println!("{index}, {name}: worst {worst:.2} dB, mean {mean:.2} dB");
    assert!(worst >= BOUND, "{index}: {worst} dB");
}

#[test]
fn pictures_are_the_float32_pipelines() {
    let all = PLAYED.map(|emulation| (emulation, None));
    for (emulation, vae_dtype) in all.into_iter().chain([(Emulation::NONE, Some(Wire::F32))]) {
        let mut demo = demo(emulation, |options| options.vae_dtype = vae_dtype);
        for index in ["pictures/index.json", "pictures/schedulers.json", "img2img/index.json"] {
            check(&mut demo, index, &format!("VAE in {vae_dtype:?}, {emulation:?}"));
        }
    }
}

#[test]
fn pictures_with_a_lora_are_the_float32_pipelines() {
    let mut demo = demo(Emulation::NONE, |options| options.loras = vec![blueprint()]);
    check(&mut demo, "pictures/loras.json", "LoRA");
}

struct Items {
    latents: Vec<Tensor>,
    captions: Vec<Tensor>,
    times: Vec<f32>,
}

impl Items {
    fn new(goldens: &Goldens, keys: &[String]) -> Self {
        let tensors = |what: &str| {
            keys.iter().map(|k| goldens.tensor(&format!("{what}_{k}"))).collect::<Vec<_>>()
        };
        let flat = |x: Tensor| if x.rank() == 4 { x.squeeze(1).expect("one frame") } else { x };
        Self {
            latents: tensors("latents").into_iter().map(flat).collect(),
            captions: tensors("caption"),
            times: keys.iter().map(|k| goldens.values(&format!("t_{k}"))[0]).collect(),
        }
    }

    /// As often as it takes until the forward is a recording that is replayed.
    fn forward(&self, dit: &Dit) -> Vec<Vec<f32>> {
        let sizes: Vec<_> = self.latents.iter().map(|x| (x.dims()[1], x.dims()[2])).collect();
        let conditioning = dit.condition(&self.captions, &sizes).expect("captions");
        let once = || {
            let outputs =
                dit.forward(&self.latents, &self.times, &conditioning).expect("a forward");
            let host = |x: &Tensor| x.flatten_all().and_then(|x| x.to_vec1()).expect("f32");
            outputs.iter().map(host).collect::<Vec<Vec<f32>>>()
        };
        let first = once();
        for time in 2..=4 {
            assert_eq!(once(), first, "forward number {time} differs from the first");
        }
        first
    }
}

#[test]
fn forwards_are_no_rougher_than_diffusers_bf16() {
    let goldens = Goldens::open("dit.safetensors");
    let device = played(Emulation::NONE, || cuda_device(0).expect("a GPU"));
    let dit = load_dit(&Goldens::tiny().join("transformer"), &device, Some(Wire::Bf16))
        .expect("tiny transformer");
    let (mut ours, mut theirs) = (0.0, 0.0);
    for key in (0..7).map(|k| k.to_string()) {
        let expected = goldens.values(&format!("out_{key}"));
        let out = Items::new(&goldens, std::slice::from_ref(&key)).forward(&dit);
        let error = relative_error(&out[0], &expected);
        let diffusers = relative_error(&goldens.values(&format!("out_bf16_{key}")), &expected);
        println!("forward {key}: bf16 {error:.1e}, diffusers' bf16 {diffusers:.1e}");
        (ours, theirs) = (ours + error, theirs + diffusers);
    }
    // Single cases scatter, since both are rounding noise.
    assert!(ours <= 1.2 * theirs, "bf16 errors sum to {ours}, diffusers' to {theirs}");
    for group in ["batch", "mixed"] {
        let keys: Vec<String> = (0..3).map(|i| format!("{group}_{i}")).collect();
        let together = Items::new(&goldens, &keys).forward(&dit);
        for (key, together) in keys.iter().zip(&together) {
            let alone = Items::new(&goldens, std::slice::from_ref(key)).forward(&dit);
            let apart = relative_error(&alone[0], together);
            let error = relative_error(together, &goldens.values(&format!("out_{key}")));
            println!("{key}: bf16 {error:.1e}, from itself alone {apart:.1e}");
            assert!(apart <= 1e-2, "{key} alone is {apart} from itself in a batch");
            assert!(error <= 4e-2, "{key}: {error}");
        }
    }
}

#[test]
fn forwards_in_f16_are_no_rougher_than_in_bf16() {
    let goldens = Goldens::open("dit.safetensors");
    let device = played(Emulation::of(Capability::TURING), || cuda_device(0).expect("a GPU"));
    let transformer = Goldens::tiny().join("transformer");
    for asked in [None, Some(Wire::F16)] {
        let dit = load_dit(&transformer, &device, asked).expect("tiny transformer");
        for key in (0..7).map(|k| k.to_string()) {
            let expected = goldens.values(&format!("out_{key}"));
            let out = Items::new(&goldens, std::slice::from_ref(&key)).forward(&dit);
            let error = relative_error(&out[0], &expected);
            let bf16 = relative_error(&goldens.values(&format!("out_bf16_{key}")), &expected);
            println!("forward {key}: f16 {error:.1e}, diffusers' bf16 {bf16:.1e}");
            assert!(error <= bf16 / 2.0, "f16 {error}, diffusers' bf16 {bf16}");
        }
    }
}

#[test]
fn hidden_states_match() {
    hidden_states(Emulation::NONE, Wire::Bf16, 3e-2);
    hidden_states(Emulation::of(Capability::TURING), Wire::F16, 4e-3);
}

fn hidden_states(emulation: Emulation, dtype: Wire, bound: f64) {
    let goldens = Goldens::open("encoder.safetensors");
    let options = EncoderOptions {
        model_path: Goldens::tiny(),
        device: DeviceChoice::Cuda(0),
        dtype: Some(dtype),
        ..Default::default()
    };
    let mut encoder =
        played(emulation, || llm_dit_qwen3::load_encoder(&options).expect("tiny text encoder"));
    let layers = encoder.info().layers;
    for tokens in [1, 31, 32, 33, 100] {
        let ids = goldens.ids(&format!("ids_{tokens}"));
        for (name, hidden_layer) in
            [("0", 0), ("m3", layers - 2), ("m2", layers - 1), ("m1", layers)]
        {
            let expected = goldens.values(&format!("hidden_{name}_{tokens}"));
            let job = EncodeJob { token_ids: ids.clone(), hidden_layer, dtype: Wire::F32 };
            let made = encoder.encode(&job).expect("hidden states").to_f32();
            let error = relative_error(&made, &expected);
            println!("{tokens} tokens, hidden {name}: {dtype:?} {error:.1e}");
            assert!(error <= bound, "{tokens} tokens, hidden {name}: {error}");
        }
    }
}
