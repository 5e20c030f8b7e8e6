//! Bytes that go to the GPU through page-locked buffers arrive whole, whatever their size.
//!
//! Needs a GPU: `cargo test --release -p llm-dit-device --features cuda --test upload`.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Tensor};
use llm_dit_device::{Uploader, cuda_device, meter};

/// Values of one buffer, as f32.
const BUFFER: usize = (16 << 20) / 4;

fn values(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) ^ seed) as f32).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Not waited for in between, so that buffers are filled again while the GPU still fetches.
#[test]
fn what_arrives_is_what_was_sent() {
    let gpu = cuda_device(0).expect("a GPU");
    let mut uploader = Uploader::new(&gpu).expect("page-locked memory");
    let counts = [1, 7, BUFFER - 1, BUFFER, BUFFER + 1, 9 * BUFFER + 12_345, 3, 2 * BUFFER];
    let sent: Vec<Vec<f32>> =
        counts.iter().zip(0..).map(|(&count, seed)| values(count, seed)).collect();
    let tensors: Vec<Tensor> = sent
        .iter()
        .map(|values| {
            let tensor = uploader.upload(&bytes(values), DType::F32, &[values.len()]);
            tensor.expect("a copy").expect("f32 is supported")
        })
        .collect();
    drop(uploader);
    for (tensor, sent) in tensors.iter().zip(&sent) {
        assert!(tensor.to_vec1::<f32>().expect("a copy") == *sent, "{} values", sent.len());
    }
}

#[test]
fn half_precision_arrives_and_wrong_sizes_are_refused() {
    let gpu = cuda_device(0).expect("a GPU");
    let mut uploader = Uploader::new(&gpu).expect("page-locked memory");
    let host = Tensor::from_vec(values(333, 5), (9, 37), &Device::Cpu).expect("values");
    for dtype in [DType::BF16, DType::F16] {
        let host = (&host / 1e6).and_then(|x| x.to_dtype(dtype)).expect("rounded");
        let exact = host.to_dtype(DType::F32).and_then(|x| x.to_vec2::<f32>()).expect("values");
        let sent: Vec<u8> = match dtype {
            DType::BF16 => host
                .flatten_all()
                .and_then(|x| x.to_vec1::<half::bf16>())
                .map(|v| v.iter().flat_map(|v| v.to_le_bytes()).collect()),
            _ => host
                .flatten_all()
                .and_then(|x| x.to_vec1::<half::f16>())
                .map(|v| v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        }
        .expect("values");
        let tensor = uploader.upload(&sent, dtype, &[9, 37]).expect("a copy").expect("supported");
        assert_eq!((tensor.dtype(), tensor.dims()), (dtype, &[9, 37][..]));
        let back = tensor.to_dtype(DType::F32).and_then(|x| x.to_vec2::<f32>()).expect("values");
        assert_eq!(back, exact);
    }
    assert!(uploader.upload(&[0; 8], DType::F32, &[3]).is_err());
    assert!(uploader.upload(&[0; 8], DType::U8, &[8]).expect("not an error").is_none());
}

#[test]
fn memory_is_told_and_its_peak_begins_anew() {
    let gpu = cuda_device(0).expect("a GPU");
    let size = 64 << 20;
    let held = Tensor::zeros(size, DType::U8, &gpu).expect("room");
    meter::synchronize(&gpu).expect("done");
    let with = meter::memory(&gpu).expect("CUDA tells it");
    assert!(with.used >= size as u64 && with.peak >= with.used, "{with:?}");
    assert!(with.reserved >= with.peak && with.reserved <= with.total, "{with:?}");
    drop(held);
    meter::synchronize(&gpu).expect("done");
    meter::reset_peak(&gpu);
    // Other tests run meanwhile, so nothing more exact can be said.
    let without = meter::memory(&gpu).expect("CUDA tells it");
    assert!(without.peak >= without.used, "{without:?}");
}
