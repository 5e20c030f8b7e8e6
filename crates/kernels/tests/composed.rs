//! The CPU kernels against the same operations composed from candle's operators, on odd sizes.

use candle_core::{Device, Result, Tensor};
use llm_dit_kernels::{
    Attention, Conv2d, ConvInput, GroupNorm, Linear, Mask, Pairing, QkNorm, Rope, composed,
    layer_norm_scale, residual_gate_norm, rms_norm, rms_norm_scale, swiglu,
};

/// Values that look random and are the same in every run.
fn values(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let count = shape.iter().product();
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let data: Vec<f32> = std::iter::repeat_with(next).take(count).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).expect("shape and data agree")
}

fn assert_close(fused: &Tensor, composed: &Tensor) -> Result<()> {
    assert_eq!(fused.dims(), composed.dims());
    let norm = |x: &Tensor| x.sqr()?.sum_all()?.to_scalar::<f32>();
    let error = (norm(&(fused - composed)?)? / norm(composed)?).sqrt();
    assert!(error < 1e-5, "relative error {error}");
    Ok(())
}

#[test]
fn norms() -> Result<()> {
    let seq_lens = [5, 1, 37];
    let (x, y) = (values(&[43, 50], 1), values(&[43, 50], 2));
    let (weight, scale) = (values(&[50], 3), values(&[3, 50], 4));
    assert_close(&rms_norm(&x, &weight, 1e-5)?, &composed::rms_norm(&x, &weight, 1e-5)?)?;
    assert_close(
        &rms_norm_scale(&x, &weight, &scale, &seq_lens, 1e-5)?,
        &composed::rms_norm_scale(&x, &weight, &scale, &seq_lens, 1e-5)?,
    )?;
    assert_close(
        &layer_norm_scale(&x, &scale, &seq_lens, 1e-6)?,
        &composed::layer_norm_scale(&x, &scale, &seq_lens, 1e-6)?,
    )?;
    for gate in [Some(&scale), None] {
        assert_close(
            &residual_gate_norm(&x, &y, &weight, gate, &seq_lens, 1e-5)?,
            &composed::residual_gate_norm(&x, &y, &weight, gate, &seq_lens, 1e-5)?,
        )?;
    }
    Ok(())
}

#[test]
fn attention_of_packed_sequences() -> Result<()> {
    let seq_lens = [1, 70, 33];
    let rows = seq_lens.iter().sum();
    for (heads, kv_heads, mask) in [(3, 3, Mask::Full), (4, 2, Mask::Causal), (1, 1, Mask::Full)] {
        let attention = Attention { heads, kv_heads, head_dim: 10, mask, half: false };
        let qkv = values(&[rows, (heads + 2 * kv_heads) * 10], 5);
        assert_close(
            &attention.forward(&qkv, &seq_lens)?,
            &composed::attention(&attention, &qkv, &seq_lens)?,
        )?;
        let whole = composed::attention(&attention, &qkv, &seq_lens)?;
        for most_scores in [1, 200, 900] {
            let stretches = composed::attention_within(&attention, &qkv, &seq_lens, most_scores)?;
            assert_close(&stretches, &whole)?;
        }
        for pairing in [Pairing::Interleaved, Pairing::Halves] {
            let rope = Rope { cos: values(&[rows, 5], 6), sin: values(&[rows, 5], 7) };
            let (q_weight, k_weight) = (values(&[10], 8), values(&[10], 9));
            let norm = QkNorm { q_weight, k_weight, eps: 1e-6, pairing };
            assert_close(
                &norm.forward(&attention, qkv.clone(), &rope)?,
                &composed::qk_norm_rope(&norm, &attention, &qkv, &rope)?,
            )?;
        }
        assert!(attention.forward(&qkv, &[rows + 1]).is_err(), "lengths past the end");
    }
    Ok(())
}

#[test]
fn convolutions() -> Result<()> {
    // At least two values a group: the norm of a single one is rounding noise over sqrt(eps).
    for (n, height, width, c_in, c_out) in [(1, 1, 1, 8, 8), (2, 6, 10, 8, 4), (1, 40, 34, 12, 20)]
    {
        let x = values(&[n, height, width, c_in], 10);
        let norm = GroupNorm {
            groups: 4,
            weight: values(&[c_in], 11),
            bias: values(&[c_in], 12),
            eps: 1e-6,
        };
        assert_close(&norm.forward(&x)?, &composed::group_norm(&norm, &x)?)?;
        for (kernel, stride) in [(3, 1), (3, 2), (1, 1)] {
            if stride == 2 && height == 1 {
                continue;
            }
            let weight = values(&[c_out, c_in, kernel, kernel], 13);
            let conv = Conv2d::new(weight, values(&[c_out], 14), stride)?;
            for input in
                [ConvInput::plain(&x), ConvInput::normed(&x, &norm), ConvInput::upsampled(&x)]
            {
                if input.upsample && stride == 2 {
                    continue;
                }
                let plain = conv.forward(&input, None)?;
                assert_close(&plain, &composed::conv2d(&conv, &input, None)?)?;
                let residual = values(plain.dims(), 15);
                let sum = conv.forward(&input, Some(&residual))?;
                assert_close(&sum, &composed::conv2d(&conv, &input, Some(&residual))?)?;
            }
        }
    }
    Ok(())
}

#[test]
fn linear_and_swiglu() -> Result<()> {
    let x = values(&[7, 30], 16);
    assert_close(&swiglu(&x)?, &composed::swiglu(&x)?)?;
    let (weight, bias) = (values(&[9, 30], 17), values(&[9], 18));
    let expected = x.matmul(&weight.t()?)?.broadcast_add(&bias)?;
    assert_close(&Linear::new(weight, Some(bias)).forward(&x)?, &expected)?;
    assert!(Linear::new(values(&[9, 31], 19), None).forward(&x).is_err(), "widths differ");
    Ok(())
}
