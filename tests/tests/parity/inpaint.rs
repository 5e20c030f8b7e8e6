//! Pictures of which a part is redrawn, against diffusers' `ZImageInpaintPipeline` in float32.

use diffusion_service::{
    engine::{Mask, Picture},
    source::{self, Masked},
};
use llm_dit_params::{GenerateOptions, Limits, ModelDefaults};
use llm_dit_tests::{
    demo::{Demo, Golden, Index, psnr},
    goldens::Goldens,
};

/// In dB, over all channels of 8-bit pixels.
const BOUND: f64 = 45.0;

struct Drawn {
    source: Picture,
    mask: Mask,
    /// Before and after the source's pixels are put back.
    raw: Vec<u8>,
    pasted: Vec<u8>,
}

fn draw(demo: &mut Demo, golden: &Golden, change: impl FnOnce(&mut GenerateOptions)) -> Drawn {
    let file = |name: &Option<String>| {
        let name = name.as_ref().expect("every one has a source and a mask");
        std::fs::read(Goldens::folder().join("inpaint").join(name)).expect("a golden file")
    };
    let (image, mask) = (file(&golden.source), file(&golden.mask));
    let mut options = GenerateOptions { mask_blur: Some(0.0), ..golden.options() };
    change(&mut options);
    let params = options.resolve(&ModelDefaults::z_image_turbo(), &Limits::default());
    let params = params.expect("valid");
    let (source, Masked { mask, paste }) =
        source::read_masked(&image, &mask, &params).expect("two pictures");
    let negative = golden.negative_prompt.as_deref().unwrap_or_default();
    let (width, height) = (params.width, params.height);
    let (from, part) = (Some(source.clone()), Some(mask.clone()));
    let raw = demo.draw_from(&golden.prompt, negative, options, from, part);
    let made = Picture { width, height, rgb: raw.clone() };
    let pasted = source::paste(paste, made).expect("of one size").rgb;
    Drawn { source, mask, raw, pasted }
}

fn goldens() -> Vec<Golden> {
    let index = std::fs::read_to_string(Goldens::folder().join("inpaint/index.json"));
    let index: Index = serde_json::from_str(&index.expect("goldens")).expect("a valid index");
    assert!(index.pictures.len() >= 6);
    index.pictures
}

/// The channels of the pixels that are redrawn.
fn inside(rgb: &[u8], mask: &Mask) -> Vec<u8> {
    let pixels = rgb.chunks_exact(3).zip(&mask.values);
    pixels.filter(|(_, mask)| **mask == 255).flat_map(|(pixel, _)| pixel.to_vec()).collect()
}

#[test]
fn the_masked_part_is_diffusers_and_the_rest_the_sources() {
    let mut demo = Demo::load();
    let mut worst = f64::INFINITY;
    for golden in goldens() {
        let file = Goldens::folder().join("inpaint").join(&golden.file);
        let expected = image::open(file).expect("a golden").into_rgb8().into_raw();
        let drawn = draw(&mut demo, &golden, |_| {});
        let part = psnr(&inside(&drawn.raw, &drawn.mask), &inside(&expected, &drawn.mask));
        let whole = psnr(&drawn.raw, &expected);
        println!("{:36} {part:6.2} dB in the mask, {whole:6.2} dB in all", golden.file);
        worst = worst.min(part).min(whole);
        let pixels = drawn.pasted.chunks_exact(3).zip(drawn.source.rgb.chunks_exact(3));
        for ((pasted, source), mask) in pixels.zip(&drawn.mask.values) {
            assert!(*mask == 255 || pasted == source, "{}", golden.file);
        }
        assert_eq!(inside(&drawn.pasted, &drawn.mask), inside(&drawn.raw, &drawn.mask));
    }
    println!("worst: {worst:.2} dB");
    assert!(worst >= BOUND, "worst of all is {worst} dB");
}

/// Every scheduler leaves what the mask keeps as it was: what is decoded of it is then the same.
#[test]
fn with_every_scheduler_the_rest_is_the_same_and_the_masked_part_is_not() {
    let mut demo = Demo::load();
    let golden = &goldens()[0];
    let mut of = |scheduler: &str| {
        draw(&mut demo, golden, |options| options.scheduler = Some(scheduler.to_owned()))
    };
    let euler = of("flow_euler");
    for scheduler in ["flow_heun", "dpm_solver", "unipc"] {
        let other = of(scheduler);
        let (euler_part, part) = (inside(&euler.raw, &euler.mask), inside(&other.raw, &other.mask));
        assert_ne!(euler_part, part, "{scheduler}");
        // As near as another solver with so few steps comes.
        let decibels = psnr(&euler_part, &part);
        println!("{scheduler}: {decibels:.2} dB from flow_euler in the mask");
        assert!(decibels > 12.0, "{scheduler}: {decibels} dB");
    }
}
