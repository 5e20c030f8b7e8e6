//! What decoding takes at its peak, beside what it is computed to take. Alone in its program, since the
//! peak is the whole process's. Linux tells it, others may not.
#![cfg(target_os = "linux")]

use std::{env, path::Path, process::Command};

use candle_core::{DType, Device, Tensor};
use llm_dit_device::meter;
use llm_dit_z_image::{
    load_vae_decoder,
    noise::randn,
    vae::{Cost, Tiling},
};

/// Pixels along the image.
const SIDE: usize = 768;

/// Scratch of the kernels' threads, the result, and what the allocator does not give back.
const OVERHEAD: u64 = 80 << 20;

/// Says which share of the whole a child of this test may take, in percent.
const SHARE: &str = "LLM_DIT_TEST_SHARE";

/// Each share in a process of its own: what one gave back to the allocator would hide in the next.
#[test]
fn a_decoder_takes_what_is_computed() {
    if let Ok(share) = env::var(SHARE) {
        return decode(share.parse().expect("a number"));
    }
    for share in ["100", "50", "0"] {
        let mut child = Command::new(env::current_exe().expect("this program"));
        let status = child.arg("--nocapture").env(SHARE, share).status().expect("starts");
        assert!(status.success(), "{share} %");
    }
}

fn decode(share: u64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/vae");
    let decoder = load_vae_decoder(&folder, &Device::Cpu).expect("a decoder");
    let (config, latents) = (decoder.config().clone(), SIDE / decoder.config().scale_factor());
    let cost = Cost::new(&Device::Cpu, DType::F32, 1);
    let bytes = |budget| Tiling::Auto.decode_bytes(&config, cost, (SIDE, SIDE), budget);
    let whole = bytes(u64::MAX);
    let budget = whole * share / 100;
    let planned = bytes(budget);
    let shape = (1, config.latent_channels, latents, latents);
    let z = randn(5, config.latent_channels * latents * latents);
    let z = Tensor::from_vec(z, shape, &Device::Cpu).expect("as many");
    let before = meter::memory(&Device::Cpu).expect("Linux tells it").used;
    meter::reset_peak(&Device::Cpu);
    let image = Tiling::Auto.decode(&decoder, &z, budget).expect("an image");
    let peak = meter::memory(&Device::Cpu).expect("Linux tells it").peak - before;
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{share} % of the whole: {} MiB at the peak, {} MiB computed, of {} MiB",
        mib(peak),
        mib(planned),
        mib(whole)
    );
    assert!(peak <= planned + OVERHEAD, "more than computed");
    assert!(2 * peak >= planned, "this measures something else");
    drop(image);
}
