//! The GPU's kernels against the same operations on the CPU in f32, on odd sizes and fresh values.
//!
//! Needs a GPU: `cargo test --release -p llm-dit-kernels --features cuda --test cuda`. The values
//! differ in every run; a failure says with which seed.
#![cfg(feature = "cuda")]

use std::{
    cell::RefCell,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
};

use candle_core::{D, DType, Device, Result, Tensor};
use llm_dit_device::{Capability, Emulation, cuda_device, emulate};
use llm_dit_kernels::{
    Attention, Conv2d, ConvInput, Format, GatedLinear, GroupNorm, Linear, Mask, Matrix, NextNorm,
    Packed, PackedRows, Pairing, QkNorm, Rope, Scratch, add_rms_norm, composed, dequantize,
    layer_norm_scale, residual_gate_norm, residual_gate_norm_next, rms_norm, rms_norm_scale,
    swiglu,
};

static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));

/// The first GPU as itself, and as it plays others: with kernels that any GPU since Ampere runs, with
/// the little shared memory of consumer cards, and without cuDNN.
static GPUS: LazyLock<Vec<(&str, Device)>> = LazyLock::new(|| {
    let without_cudnn = |emulation| Emulation { cudnn: false, ..emulation };
    let played = [
        ("itself", Emulation::NONE),
        ("8.0", Emulation::of(Capability::AMPERE)),
        ("8.0 without cuDNN", without_cudnn(Emulation::of(Capability::AMPERE))),
        ("8.6 without cuDNN", without_cudnn(Emulation::of(Capability::new(8, 6)))),
    ];
    let open = |(name, emulation)| {
        emulate(emulation);
        (name, cuda_device(0).expect("a GPU"))
    };
    played.map(open).into()
});

thread_local! {
    /// The one that a test is about.
    static GPU: RefCell<Device> = RefCell::new(GPUS[0].1.clone());
}

fn played_gpu() -> Device {
    GPU.with_borrow(Clone::clone)
}

/// The same test for each GPU that is played.
fn on_each(test: impl Fn() -> Result<()>) -> Result<()> {
    for (name, device) in GPUS.iter() {
        println!("the GPU plays {name}");
        GPU.set(device.clone());
        test()?;
    }
    Ok(())
}

/// Values on the CPU that bf16 holds exactly, so that both sides compute with the same.
struct Draw(u64);

impl Draw {
    fn new(test: u64) -> Self {
        Self(SEED.wrapping_add(test.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// About normal, as sums of uniform numbers are.
    fn tensor(&mut self, shape: &[usize], mean: f32, deviation: f32) -> Tensor {
        let mut uniform = || {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut value = || mean + deviation * (uniform() + uniform() + uniform()) * 2.0;
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| value()).collect();
        let exact = Tensor::from_vec(values, shape, &Device::Cpu).expect("values fit the shape");
        exact.to_dtype(DType::BF16).and_then(|x| x.to_dtype(DType::F32)).expect("rounding")
    }

    fn normal(&mut self, shape: &[usize]) -> Tensor {
        self.tensor(shape, 0.0, 1.0)
    }
}

fn gpu(x: &Tensor) -> Tensor {
    x.to_dtype(DType::BF16).and_then(|x| x.to_device(&played_gpu())).expect("a copy")
}

/// As `||a - b|| / ||b||`, over everything and over the worst row of the last axis.
fn assert_close(name: &str, on_gpu: &Tensor, reference: &Tensor, bound: f32) {
    let check = || -> Result<(f32, f32)> {
        let on_gpu = on_gpu.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
        assert_eq!(on_gpu.dims(), reference.dims(), "{name}");
        let difference = (on_gpu - reference)?;
        let norm = |x: &Tensor| x.sqr()?.sum_all()?.to_scalar::<f32>();
        let whole = (norm(&difference)? / norm(reference)?).sqrt();
        let of_rows = |x: &Tensor| x.sqr()?.sum_keepdim(D::Minus1);
        let scale = of_rows(reference)?.mean_all()?.to_scalar::<f32>()?;
        let rows = of_rows(&difference)?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        Ok((whole, (rows / scale).sqrt()))
    };
    let (whole, worst) = check().expect("a comparison");
    println!("{name}: {whole:.2e}, worst row {worst:.2e}");
    // NaN is not within any bound.
    assert!(whole <= bound && worst <= 4.0 * bound, "{name}: {whole} and {worst}, seed {}", *SEED);
}

#[test]
fn products() -> Result<()> {
    let mut draw = Draw::new(1);
    for (rows, ins, outs) in [
        (1, 64, 96),
        (97, 72, 40),
        (100, 64, 64),
        (128, 256, 256),
        (333, 520, 1000),
        (1000, 200, 328),
        (2113, 1032, 776),
        (4224, 384, 3840),
    ] {
        let (x, w) = (draw.normal(&[rows, ins]), draw.normal(&[outs, ins]));
        let bias = draw.tensor(&[outs], 3.0, 1.0);
        for bias in [None, Some(bias)] {
            let on_gpu = Linear::new(gpu(&w), bias.as_ref().map(gpu)).forward(&gpu(&x))?;
            let on_cpu = Linear::new(w.clone(), bias.clone()).forward(&x)?;
            let name = format!("{rows} x {ins} x {outs}, bias {}", bias.is_some());
            assert_close(&name, &on_gpu, &on_cpu, 3e-3);
        }
    }
    Ok(())
}

#[test]
fn products_in_every_tiling() -> Result<()> {
    use llm_dit_kernels::cuda_source::{Kind, Tiling};
    let mut draw = Draw::new(2);
    for (rows, ins, outs) in [(700, 328, 1100), (4224, 1096, 512), (130, 64, 272), (300, 72, 1088)]
    {
        let outs = outs / 16 * 16;
        let (x, w) = (draw.normal(&[rows, ins]), draw.normal(&[outs, ins]));
        let plain = Linear::new(w.clone(), None).forward(&x)?;
        // Columns 0..8 are gates of the first ups, and so on.
        let turned = plain.reshape((rows, outs / 16, 2, 8))?;
        let part = |i: usize| turned.narrow(2, i, 1)?.reshape((rows, outs / 2));
        let gated = (part(0)?.silu()? * part(1)?)?;
        for share_a in [true, false] {
            for columns in [64, 128, 192, 256] {
                let tiling = Tiling { columns, share_a, kind: Kind::Plain };
                let out = llm_dit_kernels::matmul_tiled(&gpu(&x), &gpu(&w), tiling)?;
                assert_close(&format!("{tiling:?}"), &out, &plain, 3e-3);
            }
            for columns in [128, 256] {
                let tiling = Tiling { columns, share_a, kind: Kind::Gated };
                let out = llm_dit_kernels::matmul_tiled(&gpu(&x), &gpu(&w), tiling)?;
                assert_close(&format!("{tiling:?}"), &out, &gated, 3e-3);
            }
        }
    }
    Ok(())
}

#[test]
fn gated_products() -> Result<()> {
    on_each(gated_products_of_one)
}

fn gated_products_of_one() -> Result<()> {
    let mut draw = Draw::new(3);
    for (rows, ins, outs) in [(5, 64, 48), (200, 72, 24), (1024, 384, 1032), (513, 96, 7)] {
        let (x, w) = (draw.normal(&[rows, ins]), draw.normal(&[2 * outs, ins]));
        let on_gpu = GatedLinear::new(gpu(&w))?.forward(&gpu(&x))?;
        let on_cpu = swiglu(&Linear::new(w, None).forward(&x)?)?;
        assert_close(&format!("{rows} x {ins} x {outs}"), &on_gpu, &on_cpu, 6e-3);
    }
    Ok(())
}

#[test]
fn norms() -> Result<()> {
    let mut draw = Draw::new(4);
    for (seq_lens, width) in
        [(vec![5, 1, 37], 56), (vec![70], 3840), (vec![9, 8], 2560), (vec![33], 192), (vec![6], 50)]
    {
        let rows = seq_lens.iter().sum();
        let (x, y) = (draw.tensor(&[rows, width], 0.5, 2.0), draw.normal(&[rows, width]));
        let (weight, next) = (draw.tensor(&[width], 1.0, 0.3), draw.tensor(&[width], 1.0, 0.3));
        let (gate, scale) =
            (draw.normal(&[seq_lens.len(), width]), draw.normal(&[seq_lens.len(), width]));
        let [gx, gy, gw, gn, gg, gs] = [&x, &y, &weight, &next, &gate, &scale].map(gpu);
        let close = |name: &str, a: &Tensor, b: &Tensor| {
            assert_close(&format!("{name} {seq_lens:?} {width}"), a, b, 5e-3);
        };
        close("rms_norm", &rms_norm(&gx, &gw, 1e-5)?, &rms_norm(&x, &weight, 1e-5)?);
        close(
            "rms_norm_scale",
            &rms_norm_scale(&gx, &gw, &gs, &seq_lens, 1e-5)?,
            &rms_norm_scale(&x, &weight, &scale, &seq_lens, 1e-5)?,
        );
        close(
            "layer_norm_scale",
            &layer_norm_scale(&gx, &gs, &seq_lens, 1e-6)?,
            &layer_norm_scale(&x, &scale, &seq_lens, 1e-6)?,
        );
        for gated in [true, false] {
            let (on_cpu, on_gpu) = (gated.then_some(&gate), gated.then_some(&gg));
            let reference = residual_gate_norm(&x, &y, &weight, on_cpu, &seq_lens, 1e-5)?;
            let sum = residual_gate_norm(&gx, &gy, &gw, on_gpu, &seq_lens, 1e-5)?;
            close("residual_gate_norm", &sum, &reference);
            let norm = NextNorm { weight: &next, scale: gated.then_some(&scale) };
            let normed = norm.forward(&reference, &seq_lens, 1e-5)?;
            let norm = NextNorm { weight: &gn, scale: gated.then_some(&gs) };
            let (sum, next) =
                residual_gate_norm_next(&gx, &gy, &gw, on_gpu, &norm, &seq_lens, 1e-5)?;
            close("residual_gate_norm_next, sum", &sum, &reference);
            close("residual_gate_norm_next, norm", &next, &normed);
        }
        let (sum, normed) = add_rms_norm(&gx, &gy, &gw, 1e-6)?;
        let (sum_cpu, normed_cpu) = add_rms_norm(&x, &y, &weight, 1e-6)?;
        close("add_rms_norm, sum", &sum, &sum_cpu);
        close("add_rms_norm, norm", &normed, &normed_cpu);
    }
    Ok(())
}

#[test]
fn rotations() -> Result<()> {
    let mut draw = Draw::new(5);
    for (tokens, heads, kv_heads, head_dim) in
        [(37, 3, 3, 64), (70, 4, 2, 128), (5, 6, 6, 32), (9, 2, 1, 48), (3, 2, 2, 10)]
    {
        for pairing in [Pairing::Interleaved, Pairing::Halves] {
            let attention = Attention { heads, kv_heads, head_dim, mask: Mask::Full, half: false };
            let qkv = draw.normal(&[tokens, (heads + 2 * kv_heads) * head_dim]);
            let (q, k) = (draw.tensor(&[head_dim], 1.0, 0.3), draw.tensor(&[head_dim], 1.0, 0.3));
            let angles = (draw.normal(&[tokens, head_dim / 2]) * 3.0)?;
            let rope = |device: &Device| -> Result<Rope> {
                Ok(Rope {
                    cos: angles.cos()?.to_device(device)?,
                    sin: angles.sin()?.to_device(device)?,
                })
            };
            let norm =
                |q: Tensor, k: Tensor| QkNorm { q_weight: q, k_weight: k, eps: 1e-5, pairing };
            let on_gpu =
                norm(gpu(&q), gpu(&k)).forward(&attention, gpu(&qkv), &rope(&played_gpu())?)?;
            let on_cpu = norm(q, k).forward(&attention, qkv, &rope(&Device::Cpu)?)?;
            assert_close(&format!("{attention:?} {pairing:?}"), &on_gpu, &on_cpu, 4e-3);
        }
    }
    Ok(())
}

#[test]
fn attention_of_packed_sequences() -> Result<()> {
    on_each(attention_of_packed_sequences_of_one)
}

fn attention_of_packed_sequences_of_one() -> Result<()> {
    let mut draw = Draw::new(6);
    for (seq_lens, heads, kv_heads, head_dim, mask) in [
        (vec![70], 3, 3, 128, Mask::Full),
        (vec![1, 70, 33], 6, 6, 32, Mask::Full),
        (vec![64, 64], 2, 2, 64, Mask::Full),
        (vec![300, 5], 4, 2, 128, Mask::Causal),
        (vec![65], 8, 2, 64, Mask::Causal),
        (vec![129, 2], 2, 2, 48, Mask::Full),
        (vec![40], 2, 1, 10, Mask::Causal),
        (vec![256, 64], 1, 1, 512, Mask::Full),
        (vec![6, 7], 1, 1, 72, Mask::Full),
        (vec![1100], 2, 2, 128, Mask::Full),
        (vec![131, 700], 3, 1, 96, Mask::Causal),
        (vec![257], 2, 2, 16, Mask::Full),
    ] {
        let rows = seq_lens.iter().sum();
        let attention = Attention { heads, kv_heads, head_dim, mask, half: false };
        let qkv = draw.normal(&[rows, (heads + 2 * kv_heads) * head_dim]);
        let on_gpu = attention.forward(&gpu(&qkv), &seq_lens)?;
        let on_cpu = attention.forward(&qkv, &seq_lens)?;
        assert_close(&format!("{attention:?} {seq_lens:?}"), &on_gpu, &on_cpu, 6e-3);
    }
    Ok(())
}

#[test]
fn convolutions() -> Result<()> {
    on_each(convolutions_of_one)
}

fn convolutions_of_one() -> Result<()> {
    let mut draw = Draw::new(7);
    for (n, height, width, ins, outs, kernel, stride) in [
        (1, 16, 16, 64, 64, 3, 1),
        (1, 5, 7, 32, 40, 3, 1),
        (2, 19, 33, 128, 256, 3, 1),
        (1, 40, 24, 16, 512, 3, 1),
        (1, 33, 50, 128, 3, 3, 1),
        (1, 12, 20, 256, 128, 1, 1),
        (1, 12, 20, 64, 64, 3, 2),
        (1, 9, 9, 30, 12, 3, 1),
        (1, 31, 29, 3, 32, 3, 1),
        (2, 21, 35, 64, 96, 3, 2),
        (1, 70, 45, 256, 136, 3, 1),
        (1, 150, 130, 64, 136, 3, 1),
        (3, 20, 11, 72, 40, 1, 1),
    ] {
        let x = draw.tensor(&[n, height, width, ins], 0.3, 1.0);
        let weight = draw.normal(&[outs, ins, kernel, kernel]);
        let bias = draw.tensor(&[outs], 1.0, 1.0);
        let groups = ins / 2;
        let (w, b) = (draw.tensor(&[ins], 1.0, 0.3), draw.normal(&[ins]));
        let norm = |w: Tensor, b: Tensor| GroupNorm { groups, weight: w, bias: b, eps: 1e-6 };
        let (norm_gpu, norm_cpu) = (norm(gpu(&w), gpu(&b)), norm(w.clone(), b.clone()));
        let conv_gpu = Conv2d::new(gpu(&weight), gpu(&bias), stride)?;
        let conv_cpu = Conv2d::new(weight, bias, stride)?;
        let gx = gpu(&x);
        let name = format!("{n}x{height}x{width}, {ins} to {outs}, {kernel}, stride {stride}");
        let plain = conv_cpu.forward(&ConvInput::plain(&x), None)?;
        let residual = draw.normal(plain.dims());
        let same = conv_gpu.forward(&ConvInput::plain(&gx), None)?;
        assert_close(&name, &same, &plain, 4e-3);
        let normed = conv_gpu.forward(&ConvInput::normed(&gx, &norm_gpu), Some(&gpu(&residual)))?;
        let reference = conv_cpu.forward(&ConvInput::normed(&x, &norm_cpu), Some(&residual))?;
        assert_close(&format!("{name}, norm, residual"), &normed, &reference, 6e-3);
        if stride == 1 {
            let doubled = conv_gpu.forward(&ConvInput::upsampled(&gx), None)?;
            let reference = conv_cpu.forward(&ConvInput::upsampled(&x), None)?;
            assert_close(&format!("{name}, upsampled"), &doubled, &reference, 5e-3);
        }
        assert_close("group norm", &norm_gpu.forward(&gx)?, &norm_cpu.forward(&x)?, 5e-3);
    }
    Ok(())
}

/// What candle composes is the fallback on GPUs, too: other types, odd shapes.
#[test]
fn other_types_are_composed() -> Result<()> {
    let mut draw = Draw::new(8);
    let (x, w) = (draw.normal(&[20, 48]), draw.normal(&[48]));
    let on_gpu = rms_norm(&x.to_device(&played_gpu())?, &w.to_device(&played_gpu())?, 1e-5)?;
    assert_close("f32", &on_gpu, &composed::rms_norm(&x, &w, 1e-5)?, 1e-5);
    Ok(())
}

/// What Turing's tensor cores have: f16 weights beside f32 activations, which may exceed f16's range.
#[test]
fn products_with_f16_weights() -> Result<()> {
    emulate(Emulation::of(Capability::TURING));
    let turing = cuda_device(0);
    emulate(Emulation::NONE);
    let mut draw = Draw::new(9);
    for device in [turing?, GPUS[0].1.clone()] {
        let on = |x: &Tensor, dtype| x.to_dtype(dtype)?.to_device(&device);
        for (rows, ins, outs) in [(1, 64, 96), (97, 73, 41), (333, 520, 1000), (1100, 3, 7)] {
            let (w, bias) = (draw.normal(&[outs, ins]), draw.normal(&[outs]));
            let linear = Linear::new(on(&w, DType::F16)?, Some(on(&bias, DType::F32)?));
            for scale in [1.0, 1e-3, 7e5] {
                let x = (draw.normal(&[rows, ins]) * scale)?;
                let on_gpu = linear.forward(&on(&x, DType::F32)?)?;
                assert_eq!(on_gpu.dtype(), DType::F32);
                let on_cpu = Linear::new(w.clone(), Some(bias.clone())).forward(&x)?;
                assert_close(
                    &format!("{rows} x {ins} x {outs} at {scale}"),
                    &on_gpu,
                    &on_cpu,
                    1e-3,
                );
            }
        }
        let large = Tensor::new(&[[1e9f32, -1e9]], &device)?;
        let unit = on(&Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu)?, DType::F16)?;
        let values = Linear::new(unit.clone(), None).forward(&large)?.to_vec2::<f32>()?;
        assert_eq!(values, [[64.0 * 65504.0, -64.0 * 65504.0]], "the largest, not infinity");
        let missing = Tensor::new(&[[f32::NAN, 1.0]], &device)?;
        let values = Linear::new(unit, None).forward(&missing)?.to_vec2::<f32>()?;
        assert!(values[0][0].is_nan(), "NaN is seen");

        for (seq_lens, heads, kv_heads, head_dim, mask) in [
            (vec![70], 3, 3, 128, Mask::Full),
            (vec![1, 70, 33], 6, 6, 32, Mask::Full),
            (vec![300, 5], 4, 2, 128, Mask::Causal),
            (vec![40], 2, 1, 10, Mask::Causal),
        ] {
            let rows = seq_lens.iter().sum();
            let attention = Attention { heads, kv_heads, head_dim, mask, half: true };
            let qkv = draw.normal(&[rows, (heads + 2 * kv_heads) * head_dim]);
            let on_gpu = attention.forward(&on(&qkv, DType::F32)?, &seq_lens)?;
            let on_cpu = attention.forward(&qkv, &seq_lens)?;
            assert_close(&format!("{attention:?} {seq_lens:?}"), &on_gpu, &on_cpu, 1e-3);
        }
    }
    Ok(())
}

/// Any bytes at all, in every format.
#[test]
fn packed_weights() -> Result<()> {
    let mut draw = Draw::new(41);
    let (rows, columns) = (48, 768);
    let formats = Format::GGML.into_iter().chain(Format::SCALED);
    for format in formats {
        let mut parts = [Vec::new(), Vec::new()];
        // Two parts of unequal height, as a stack of matrices is.
        for (part, rows) in [(0, 20), (1, rows - 20)] {
            let bytes = format.row_bytes(columns).expect("whole blocks") * rows;
            let values = draw.normal(&[bytes]).to_vec1::<f32>()?;
            let bytes: Vec<u8> = values.into_iter().map(|x| (x * 3000.0) as i64 as u8).collect();
            let host = Tensor::from_vec(bytes.clone(), bytes.len(), &Device::Cpu)?;
            for (at, bytes) in
                [host.clone(), host.to_device(&played_gpu())?].into_iter().enumerate()
            {
                parts[at].push(PackedRows::new(format, rows, columns, bytes)?);
            }
            assert_eq!(parts[0].len(), part + 1);
        }
        let [host, device] = parts;
        assert!(Packed::runs_on(&played_gpu(), DType::BF16, format, columns)?, "{}", format.name());
        let expected = bits(&dequantize(&host, columns, DType::BF16)?)?;
        let found = bits(&dequantize(&device, columns, DType::BF16)?)?;
        let odd = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(odd, None, "{}, seed {}", format.name(), *SEED);
        assert!(Packed::runs_on(&played_gpu(), DType::F16, format, columns)?, "{}", format.name());
        let half = |parts: &[PackedRows]| {
            let values = dequantize(parts, columns, DType::F16)?.to_device(&Device::Cpu)?;
            let values = values.flatten_all()?.to_vec1::<half::f16>()?;
            let bits = |x: half::f16| if x.is_nan() { NAN } else { x.to_bits() };
            Ok::<_, candle_core::Error>(values.into_iter().map(bits).collect::<Vec<_>>())
        };
        assert_eq!(half(&device)?, half(&host)?, "{} to f16, seed {}", format.name(), *SEED);

        // The scratch is used again, and halves take turns in it.
        let scratch = Arc::<Scratch>::default();
        let packed = |parts| Packed::new(parts, columns, DType::BF16, Arc::clone(&scratch));
        let (packed, again) = (packed(device.clone())?, packed(device.clone())?);
        let dense = dequantize(&device, columns, DType::BF16)?;
        // NaN is not equal to itself; such bytes were compared above.
        if bits(&dense)?.contains(&NAN) {
            continue;
        }
        let x = gpu(&draw.normal(&[33, columns]));
        let products = [Matrix::Packed(packed), Matrix::Packed(again), dense.into()].map(|m| {
            Ok::<_, candle_core::Error>((
                bits(&Linear::new(m.clone(), None).forward(&x)?)?,
                bits(&GatedLinear::new(m)?.forward(&x)?)?,
            ))
        });
        let [first, second, dense] = products;
        let dense = dense?;
        assert_eq!(first?, dense, "{}", format.name());
        assert_eq!(second?, dense, "{}", format.name());
    }
    Ok(())
}

/// All NaN are one.
const NAN: u16 = 0x7fc0;

fn bits(x: &Tensor) -> Result<Vec<u16>> {
    let values: Vec<half::bf16> = x.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().map(|x| if x.is_nan() { NAN } else { x.to_bits() }).collect())
}
