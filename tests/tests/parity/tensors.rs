//! Every part of the model against diffusers and transformers in float32, on random weights.
//!
//! The goldens come from `tests/oracle/make_goldens.py`; point `LLM_DIT_GOLDENS` at another folder
//! to test against fresh ones. The bound is relative error in norm, 1e-4 in f32.

use candle_core::{DType, Device, Tensor};
use encoder_service::engine::EncodeJob;
use llm_dit_params::Scheduler;
use llm_dit_proto::DType as Wire;
use llm_dit_qwen3::EncoderOptions;
use llm_dit_tests::goldens::{Goldens, relative_error};
use llm_dit_weights::DeviceChoice;
use llm_dit_z_image::{
    load_dit, load_vae_decoder, load_vae_encoder, noise::randn, schedule::sigmas, vae::Tiling,
};

const BOUND: f64 = 1e-4;

#[test]
fn noise_is_torchs() {
    let goldens = Goldens::open("noise.safetensors");
    let mut tested = 0;
    for name in goldens.names() {
        let seed: u64 =
            name["seed".len()..].split('_').next().expect("seed").parse().expect("a number");
        let expected = goldens.values(&name);
        let ours = randn(seed, expected.len());
        let worst = ours.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        println!("{name}: at most {worst:.1e} apart");
        assert!(worst <= 1e-6, "{name}: {worst}");
        tested += 1;
    }
    assert!(tested >= 4);
}

#[test]
fn sigmas_are_the_pipelines() {
    let goldens = Goldens::open("schedule.safetensors");
    for shift in [3, 6] {
        for steps in [1u32, 2, 3, 4, 8, 9, 20, 50] {
            let expected = goldens.values(&format!("sigmas_shift{shift}_{steps}"));
            let ours = sigmas(Scheduler::FlowEuler, steps, f64::from(shift));
            assert_eq!(ours.len(), expected.len());
            for (a, b) in ours.iter().zip(&expected) {
                assert!(
                    (a - f64::from(*b)).abs() <= 1e-6,
                    "shift {shift}, {steps} steps: {a} for {b}"
                );
            }
        }
    }
}

#[test]
fn hidden_states_match() {
    let goldens = Goldens::open("encoder.safetensors");
    let options = |dtype| EncoderOptions {
        model_path: Goldens::tiny(),
        device: DeviceChoice::Cpu,
        dtype: Some(dtype),
        ..Default::default()
    };
    let mut f32 = llm_dit_qwen3::load_encoder(&options(Wire::F32)).expect("tiny text encoder");
    let mut bf16 = llm_dit_qwen3::load_encoder(&options(Wire::Bf16)).expect("tiny text encoder");
    let layers = f32.info().layers;
    for tokens in [1, 31, 32, 33, 100] {
        let ids = goldens.ids(&format!("ids_{tokens}"));
        for (name, hidden_layer) in
            [("0", 0), ("m3", layers - 2), ("m2", layers - 1), ("m1", layers)]
        {
            let expected = goldens.values(&format!("hidden_{name}_{tokens}"));
            let job = EncodeJob { token_ids: ids.clone(), hidden_layer, dtype: Wire::F32 };
            let error =
                relative_error(&f32.encode(&job).expect("hidden states").to_f32(), &expected);
            let rough =
                relative_error(&bf16.encode(&job).expect("hidden states").to_f32(), &expected);
            println!("{tokens} tokens, hidden {name}: f32 {error:.1e}, bf16 {rough:.1e}");
            assert!(error <= BOUND, "{tokens} tokens, hidden {name}: {error}");
            assert!(rough <= 3e-2, "{tokens} tokens, hidden {name}: bf16 {rough}");
        }
    }
}

/// Runs the items of one call and returns the outputs.
fn forward(dtype: Wire, goldens: &Goldens, keys: &[String]) -> Vec<Vec<f32>> {
    let dit = load_dit(&Goldens::tiny().join("transformer"), &Device::Cpu, Some(dtype))
        .expect("tiny transformer");
    let tensors = |what: &str| {
        keys.iter().map(|k| goldens.tensor(&format!("{what}_{k}"))).collect::<Vec<_>>()
    };
    let latents: Vec<Tensor> = tensors("latents")
        .into_iter()
        .map(|x| if x.rank() == 4 { x.squeeze(1).expect("one frame") } else { x })
        .collect();
    let sizes: Vec<_> = latents.iter().map(|x| (x.dims()[1], x.dims()[2])).collect();
    let times: Vec<f32> = keys.iter().map(|k| goldens.values(&format!("t_{k}"))[0]).collect();
    let conditioning = dit.condition(&tensors("caption"), &sizes).expect("captions");
    dit.forward(&latents, &times, &conditioning)
        .expect("a forward")
        .iter()
        .map(|x| x.flatten_all().and_then(|x| x.to_vec1()).expect("f32"))
        .collect()
}

#[test]
fn single_forwards_match() {
    let goldens = Goldens::open("dit.safetensors");
    let (mut ours_bf16, mut theirs_bf16) = (0.0, 0.0);
    for key in (0..7).map(|k| k.to_string()) {
        let expected = goldens.values(&format!("out_{key}"));
        let ours = forward(Wire::F32, &goldens, std::slice::from_ref(&key));
        let rough = forward(Wire::Bf16, &goldens, std::slice::from_ref(&key));
        let error = relative_error(&ours[0], &expected);
        let bf16 = relative_error(&rough[0], &expected);
        let theirs = relative_error(&goldens.values(&format!("out_bf16_{key}")), &expected);
        println!("forward {key}: f32 {error:.1e}; bf16 {bf16:.1e}, diffusers' bf16 {theirs:.1e}");
        assert!(error <= BOUND, "forward {key}: {error}");
        (ours_bf16, theirs_bf16) = (ours_bf16 + bf16, theirs_bf16 + theirs);
    }
    // Single cases scatter, since both are rounding noise; on average ours must be no worse.
    assert!(
        ours_bf16 <= 1.2 * theirs_bf16,
        "bf16 errors sum to {ours_bf16}, diffusers' to {theirs_bf16}"
    );
}

#[test]
fn batches_of_unequal_items_match() {
    let goldens = Goldens::open("dit.safetensors");
    for group in ["batch", "mixed"] {
        let keys: Vec<String> = (0..3).map(|i| format!("{group}_{i}")).collect();
        let ours = forward(Wire::F32, &goldens, &keys);
        for (key, ours) in keys.iter().zip(&ours) {
            let error = relative_error(ours, &goldens.values(&format!("out_{key}")));
            println!("{key}: f32 {error:.1e}");
            assert!(error <= BOUND, "{key}: {error}");
            let alone = forward(Wire::F32, &goldens, std::slice::from_ref(key));
            let apart = relative_error(&alone[0], ours);
            // Not 0: the blocking of a matrix product depends on its number of rows.
            assert!(apart <= 1e-5, "{key} alone is {apart} from itself in a batch");
        }
    }
}

#[test]
fn vae_decodes_and_encodes_alike() {
    let goldens = Goldens::open("vae.safetensors");
    let folder = Goldens::tiny().join("vae");
    let decoder = load_vae_decoder(&folder, &Device::Cpu).expect("tiny vae");
    let encoder = load_vae_encoder(&folder, &Device::Cpu).expect("tiny vae");
    let values = |x: &Tensor| {
        let x = x.to_dtype(DType::F32).and_then(|x| x.flatten_all());
        x.and_then(|x| x.to_vec1::<f32>()).expect("f32")
    };
    for k in 0..4 {
        let image = decoder.decode(&goldens.tensor(&format!("decode_z_{k}"))).expect("a picture");
        let error = relative_error(&values(&image), &goldens.values(&format!("decode_image_{k}")));
        println!("decode {k}: {error:.1e}");
        assert!(error <= BOUND, "decode {k}: {error}");
    }
    for k in 0..3 {
        let posterior =
            encoder.encode(&goldens.tensor(&format!("encode_image_{k}"))).expect("a posterior");
        for (name, ours) in [("mean", &posterior.mean), ("logvar", &posterior.logvar)] {
            let error =
                relative_error(&values(ours), &goldens.values(&format!("encode_{name}_{k}")));
            println!("encode {k} {name}: {error:.1e}");
            assert!(error <= BOUND, "encode {k} {name}: {error}");
        }
    }
}

/// As diffusers' `enable_tiling`. Without tiles it is another picture, so that the bound tells.
#[test]
fn vae_tiles_alike() {
    let goldens = Goldens::open("vae_tiling.safetensors");
    let folder = Goldens::tiny().join("vae");
    let decoder = load_vae_decoder(&folder, &Device::Cpu).expect("tiny vae");
    let encoder = load_vae_encoder(&folder, &Device::Cpu).expect("tiny vae");
    let values = |x: &Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
    for k in 0..4 {
        let check = |name: &str, ours: &Tensor| {
            let name = format!("{name}_{k}");
            assert_eq!(ours.dims(), goldens.tensor(&name).dims());
            relative_error(&values(ours), &goldens.values(&name))
        };
        let z = goldens.tensor(&format!("z_{k}"));
        let tiled = check("image", &Tiling::On.decode(&decoder, &z, 0).expect("a picture"));
        let whole = check("image", &Tiling::Off.decode(&decoder, &z, 0).expect("a picture"));
        let image = goldens.tensor(&format!("image_{k}"));
        let posterior = Tiling::On.encode(&encoder, &image, 0).expect("a posterior");
        let mean = check("mean", &posterior.mean);
        let logvar = check("logvar", &posterior.logvar);
        println!("{k}: {tiled:.1e} (whole {whole:.1e}), mean {mean:.1e}, logvar {logvar:.1e}");
        assert!(tiled <= BOUND && mean <= BOUND && logvar <= BOUND);
        assert!(whole > 100.0 * BOUND, "tiles make no difference");
        let small = Tiling::Auto.decode(&decoder, &z, u64::MAX).expect("a picture");
        assert!(check("image", &small) == whole, "the memory suffices for the whole");
    }
}
