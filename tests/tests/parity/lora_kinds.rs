//! LoRAs that are more than two factors, against the weights that PEFT and diffusers make of them.
//!
//! `tests/oracle/lora_kinds_goldens.py` makes the files and the weights.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use diffusion_service::engine::LoraChoice;
use llm_dit_params::LoraBlocks;
use llm_dit_proto::DType as Wire;
use llm_dit_tests::goldens::{Goldens, relative_error};
use llm_dit_weights::{Checkpoint, Packing, PartFiles, Weights, lora::LoraError};
use llm_dit_z_image::{
    dit::{Config, names::naming},
    load_dit, read_loras,
};

const BOUND: f64 = 1e-5;

fn choice(file: &str, scale: f32, blocks: &str) -> LoraChoice {
    LoraChoice {
        name: file.to_owned(),
        path: Goldens::folder().join("lora_kinds").join(format!("{file}.safetensors")),
        scale,
        trigger_words: String::new(),
        blocks: if blocks.is_empty() {
            LoraBlocks::default()
        } else {
            blocks.parse().expect(blocks)
        },
        pass: Default::default(),
    }
}

fn config() -> Config {
    let folder = Goldens::tiny().join("transformer");
    load_dit(&folder, &Device::Cpu, Some(Wire::F32)).expect("tiny").config().clone()
}

fn base() -> Weights {
    let part = PartFiles::find(&Goldens::tiny(), "transformer", "diffusion_pytorch_model", None);
    Checkpoint::open(&part, naming, &Device::Cpu, DType::F32, Packing::Expanded).expect("tiny")
}

fn fused(choices: &[LoraChoice]) -> Weights {
    let (active, overlay) = read_loras(choices, &config()).expect("they fit");
    assert!(active.iter().all(|lora| lora.unmatched.is_empty()), "{active:?}");
    base().with_overlay(Arc::new(overlay))
}

fn values(weights: &Weights, name: &str, like: &Tensor) -> Vec<f32> {
    let tensor = weights.get(name, like.dims()).expect(name);
    tensor.flatten_all().and_then(|x| x.to_vec1()).expect("f32")
}

#[test]
fn every_kind_gives_the_weights_of_its_library() {
    let goldens = Goldens::open("lora_kinds.safetensors");
    let mut seen = 0;
    for golden in goldens.names() {
        let (kind, tensor) = golden.split_once('/').expect("a kind");
        let (file, scale) = match kind.strip_suffix("_half") {
            Some(file) => (file, 0.5),
            None => (kind, 1.0),
        };
        let ours = values(&fused(&[choice(file, scale, "")]), tensor, &goldens.tensor(&golden));
        let error = relative_error(&ours, &goldens.values(&golden));
        println!("{golden}: {error:.1e}");
        assert!(error <= BOUND, "{golden}: {error}");
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn a_scale_of_zero_leaves_every_bit() {
    let goldens = Goldens::open("lora_kinds.safetensors");
    for golden in goldens.names() {
        let (kind, tensor) = golden.split_once('/').expect("a kind");
        let like = goldens.tensor(&golden);
        let file = kind.strip_suffix("_half").unwrap_or(kind);
        let ours = values(&fused(&[choice(file, 0.0, "")]), tensor, &like);
        assert_eq!(ours, values(&base(), tensor, &like), "{golden}");
    }
}

#[test]
fn blocks_have_scales_of_their_own() {
    let goldens = Goldens::open("lora_kinds.safetensors");
    let (first, second) = ("layers.0.attention.to_k.weight", "layers.1.feed_forward.w2.weight");
    let like = |name: &str| goldens.tensor(&format!("lokr/{name}"));
    let all = fused(&[choice("lokr", 1.0, "")]);
    let some = fused(&[choice("lokr", 1.0, "layers.0=0,layers.1-9=1")]);
    assert_eq!(values(&some, first, &like(first)), values(&base(), first, &like(first)));
    assert_eq!(values(&some, second, &like(second)), values(&all, second, &like(second)));
    // Twice the scale where half of it is asked for is the scale.
    let other = fused(&[choice("lokr", 2.0, "layers.0-1.attention=0.5")]);
    assert_eq!(values(&other, first, &like(first)), values(&all, first, &like(first)));
    assert_ne!(values(&other, second, &like(second)), values(&all, second, &like(second)));

    let error = read_loras(&[choice("lokr", 1.0, "layers.99=0")], &config()).expect_err("no such");
    assert!(matches!(&error, LoraError::Block { block, .. } if block == "layers.99"), "{error}");
    assert!(error.to_string().contains("noise_refiner"), "{error}");
}
