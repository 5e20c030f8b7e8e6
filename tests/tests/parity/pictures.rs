//! The demo model's pictures against diffusers' `ZImagePipeline` in float32: same prompt, same
//! seed, 45 dB or more. Pictures and their parameters are in `tests/goldens/pictures` and
//! `tests/goldens/img2img`.

use llm_dit_qwen3::EncoderOptions;
use llm_dit_testkit::repository;
use llm_dit_tests::demo::{Demo, blueprint};
use llm_dit_weights::DeviceChoice;
use llm_dit_z_image::DiffusionOptions;

/// In dB, over all channels of 8-bit pixels.
const BOUND: f64 = 45.0;

fn check(index: &str, at_least: usize) {
    check_with(&mut Demo::load(), index, at_least);
}

fn check_with(demo: &mut Demo, index: &str, at_least: usize) {
    let decibels = demo.compare(index);
    let worst = decibels.iter().copied().fold(f64::INFINITY, f64::min);
    println!("worst of {}: {worst:.2} dB", decibels.len());
    assert!(decibels.len() >= at_least && worst >= BOUND, "worst of all is {worst} dB");
}

#[test]
fn pictures_are_diffusers_pictures() {
    check("pictures/index.json", 26);
}

/// Weights in f16, beside which activations stay f32.
#[test]
fn pictures_with_f16_weights_are_diffusers_pictures() {
    let (model_path, device) = (repository("models/demo"), DeviceChoice::Cpu);
    let dtype = Some(llm_dit_proto::DType::F16);
    let encoder =
        EncoderOptions { model_path: model_path.clone(), device, dtype, ..Default::default() };
    let diffusion = DiffusionOptions { model_path, device, dtype, ..Default::default() };
    check_with(&mut Demo::open(&encoder, &diffusion), "pictures/schedulers.json", 6);
}

/// `ZImagePipeline` with another scheduler of diffusers in it.
#[test]
fn pictures_of_the_other_schedulers_are_diffusers_pictures() {
    check("pictures/schedulers.json", 6);
}

/// `ZImagePipeline(sigmas=...)`.
#[test]
fn pictures_of_explicit_sigmas_are_diffusers_pictures() {
    check("pictures/sigmas.json", 3);
}

/// `ZImageImg2ImgPipeline`, from sources of the right size.
#[test]
fn pictures_from_pictures_are_diffusers_pictures() {
    check("img2img/index.json", 6);
}

/// PEFT's adapters on the transformer, some of them disabled for the negative prompt.
#[test]
fn pictures_with_a_lora_in_one_pass_are_diffusers_pictures() {
    check("pictures/passes.json", 2);
}

/// The LoRA that ships beside the model, through `load_lora_weights` and `fuse_lora`.
#[test]
fn pictures_in_a_style_are_diffusers_pictures() {
    let (model_path, device) = (repository("models/demo"), DeviceChoice::Cpu);
    let loras = vec![blueprint()];
    let encoder = EncoderOptions { model_path: model_path.clone(), device, ..Default::default() };
    let diffusion = DiffusionOptions { model_path, device, loras, ..Default::default() };
    check_with(&mut Demo::open(&encoder, &diffusion), "pictures/loras.json", 2);
}
