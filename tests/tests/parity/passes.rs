//! LoRAs for positive prompts only, against the same model with other LoRAs.
//!
//! `pictures.rs` compares such pictures with diffusers'.

use std::{ops::ControlFlow, sync::Arc};

use candle_core::Device;
use diffusion_service::engine::{GenerateJob, ImageGenerator, LoraChoice, Step};
use llm_dit_params::{GenerateOptions, LoraPass};
use llm_dit_proto::{DType, Tensor};
use llm_dit_testkit::wire::tensor;
use llm_dit_tests::goldens::{Goldens, relative_error};
use llm_dit_weights::{DeviceChoice, Residency};
use llm_dit_z_image::{DiffusionOptions, dit::Dit, load_dit, read_loras};

use LoraPass::{Both, Positive};

fn choice(folder: &str, name: &str, scale: f32, pass: LoraPass) -> LoraChoice {
    LoraChoice {
        name: name.to_owned(),
        path: Goldens::folder().join(folder).join(format!("{name}.safetensors")),
        scale,
        trigger_words: String::new(),
        blocks: Default::default(),
        pass,
    }
}

fn open(residency: Residency, loras: &[LoraChoice]) -> Box<dyn ImageGenerator> {
    let options = DiffusionOptions {
        model_path: Goldens::tiny(),
        device: DeviceChoice::Cpu,
        dtype: Some(DType::F32),
        residency,
        loras: loras.to_vec(),
        ..Default::default()
    };
    llm_dit_z_image::load(&options).expect("they fit")
}

/// The latents of a picture that starts with this guidance, if any.
fn draw(generator: &mut dyn ImageGenerator, guidance_scale: Option<f32>) -> Vec<f32> {
    let info = generator.info();
    let options = GenerateOptions {
        width: Some(64),
        height: Some(80),
        steps: Some(3),
        seed: Some(4),
        guidance_scale,
        cfg_truncation: Some(0.7),
        ..Default::default()
    };
    let caption = |tokens, salt| {
        let small = tensor(&[tokens, info.cap_feat_dim], salt).to_f32();
        let values: Vec<f32> = small.iter().map(|v| 4.0 * v).collect();
        Tensor::from_f32(&values, vec![tokens, info.cap_feat_dim], DType::F32).expect("a shape")
    };
    let params = options.resolve(&info.defaults, &info.limits).expect("valid");
    let job = GenerateJob {
        loras: Vec::new(),
        negative_embeddings: params.uses_guidance().then(|| caption(33, 2)),
        params,
        embeddings: caption(5, 1),
        latents: None,
        image: None,
        mask: None,
        return_latents: true,
        preview: None,
    };
    let job = info.check(job).expect("valid");
    let made = generator.generate(&job, &mut |_: Step| ControlFlow::Continue(()));
    made.expect("a picture").latents.expect("asked for").to_f32()
}

/// Of low rank, of low rank beside one that is not, and neither.
fn sets(pass: LoraPass) -> [Vec<LoraChoice>; 3] {
    let kohya = |pass| choice("lora", "kohya", 0.7, pass);
    [
        vec![kohya(pass)],
        vec![choice("lora_kinds", "dora", 1.0, Both), kohya(pass)],
        vec![kohya(Both), choice("lora_kinds", "lokr", 1.0, pass)],
    ]
}

#[test]
fn without_guidance_it_is_a_lora_like_any_other() {
    for (both, positive) in sets(Both).iter().zip(&sets(Positive)) {
        let expected = draw(open(Residency::Always, both).as_mut(), None);
        for residency in [Residency::Always, Residency::InUse] {
            let mut one = open(residency, positive);
            let before = draw(one.as_mut(), None);
            assert!(before == expected, "{positive:?}, {residency:?}");
            draw(one.as_mut(), Some(1.5));
            assert!(draw(one.as_mut(), None) == expected, "{positive:?}, {residency:?}: after");
        }
    }
}

#[test]
fn with_guidance_it_is_another_picture_whatever_came_before() {
    for (both, positive) in sets(Both).iter().zip(&sets(Positive)) {
        let other = draw(open(Residency::Always, both).as_mut(), Some(1.5));
        let expected = draw(open(Residency::Always, positive).as_mut(), Some(1.5));
        let apart = relative_error(&expected, &other);
        println!("{apart:.2} from both passes");
        assert!(apart > 1e-3, "{positive:?}: {apart}");
        for residency in [Residency::Always, Residency::InUse] {
            let mut one = open(residency, &[]);
            let plain = draw(one.as_mut(), Some(1.5));
            for _ in 0..2 {
                one.set_loras(both).expect("they fit");
                assert!(draw(one.as_mut(), Some(1.5)) == other, "{both:?}, {residency:?}");
                let report = one.set_loras(positive).expect("they fit");
                assert_eq!(report.active.iter().map(|l| &l.choice).collect::<Vec<_>>(), {
                    positive.iter().collect::<Vec<_>>()
                });
                assert!(draw(one.as_mut(), Some(1.5)) == expected, "{positive:?}, {residency:?}");
                draw(one.as_mut(), None);
                assert!(draw(one.as_mut(), Some(1.5)) == expected, "{residency:?}: after");
            }
            one.set_loras(&[]).expect("nothing to fit");
            assert!(draw(one.as_mut(), Some(1.5)) == plain, "{residency:?}");
        }
    }
}

fn forward(dit: &Dit, goldens: &Goldens) -> Vec<f32> {
    let latents = goldens.tensor("latents");
    let size = (latents.dims()[1], latents.dims()[2]);
    let conditioning = dit.condition(&[goldens.tensor("caption")], &[size]).expect("a caption");
    let out = dit.forward(&[latents], &goldens.values("t")[..1], &conditioning).expect("a forward");
    out[0].flatten_all().and_then(|x| x.to_vec1()).expect("f32")
}

fn dit(choices: &[LoraChoice]) -> Dit {
    let folder = Goldens::tiny().join("transformer");
    let mut dit = load_dit(&folder, &Device::Cpu, Some(DType::F32)).expect("tiny");
    let (_, overlay) = read_loras(choices, dit.config()).expect("they fit");
    dit.set_overlay(Arc::new(overlay)).expect("they fit");
    dit
}

/// The oracle's forward with both LoRAs, and ours with one of them, bit for bit.
#[test]
fn each_pass_is_the_forward_with_its_loras() {
    let goldens = Goldens::open("lora.safetensors");
    let kohya = choice("lora", "kohya", 0.7, Both);
    let other = choice("lora", "diffusion_model", -0.4, Positive);
    let two = dit(&[kohya.clone(), other]);
    let error = relative_error(&forward(&two, &goldens), &goldens.values("out_both"));
    println!("positive: {error:.1e} from diffusers");
    assert!(error <= 1e-4, "{error}");
    let negative = forward(two.negative().expect("another model"), &goldens);
    let alone = dit(&[kohya]);
    assert!(alone.negative().is_none());
    assert!(negative == forward(&alone, &goldens));
}
