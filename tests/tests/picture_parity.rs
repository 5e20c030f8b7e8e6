//! The demo model's pictures against diffusers' `ZImagePipeline` in float32: same prompt, same
//! seed, 45 dB or more. Pictures and their parameters are in `tests/goldens/pictures` and
//! `tests/goldens/img2img`.

use llm_dit_tests::demo::Demo;

/// In dB, over all channels of 8-bit pixels.
const BOUND: f64 = 45.0;

fn check(index: &str, at_least: usize) {
    let decibels = Demo::load().compare(index);
    let worst = decibels.iter().copied().fold(f64::INFINITY, f64::min);
    println!("worst of {}: {worst:.2} dB", decibels.len());
    assert!(decibels.len() >= at_least && worst >= BOUND, "worst of all is {worst} dB");
}

#[test]
fn pictures_are_diffusers_pictures() {
    check("pictures/index.json", 26);
}

/// `ZImagePipeline` with another scheduler of diffusers in it.
#[test]
fn pictures_of_the_other_schedulers_are_diffusers_pictures() {
    check("pictures/schedulers.json", 6);
}

/// `ZImageImg2ImgPipeline`, from sources of the right size.
#[test]
fn pictures_from_pictures_are_diffusers_pictures() {
    check("img2img/index.json", 6);
}
