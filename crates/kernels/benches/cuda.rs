//! Milliseconds and rates of each GPU kernel at the sizes of a 1024x1024 picture.
//!
//! `cargo bench -p llm-dit-kernels --features cuda --bench cuda -- [PART OF A NAME] [--capability=8.0]
//! [--without-cudnn]`; the GPU plays the capability.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use llm_dit_device::{CapturedGraph, Emulation, cuda_device, emulate, warm_up};
use llm_dit_kernels::{
    Attention, Conv2d, ConvInput, GatedLinear, GroupNorm, Linear, Mask, NextNorm, Pairing, QkNorm,
    Rope,
    cuda_source::{Kind, Tiling},
    matmul_tiled, residual_gate_norm_next,
};

const RUNS: usize = 10;

struct Bench {
    device: Device,
    filter: Option<String>,
}

impl Bench {
    fn random(&self, shape: &[usize]) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, shape, &self.device)?.to_dtype(DType::BF16)
    }

    /// Median seconds of a call. Calls are queued for a twentieth of a second at a time and half a
    /// second in all: a GPU that computes draws more power than it may after some milliseconds, lowers
    /// its clock, and what counts is the speed after that.
    fn time<T>(
        &self,
        name: &str,
        work: f64,
        unit: &str,
        mut call: impl FnMut() -> Result<T>,
    ) -> Result<()> {
        if self.filter.as_ref().is_some_and(|part| !name.contains(part.as_str())) {
            return Ok(());
        }
        let mut queued = 3;
        let mut once = |queued: usize| -> Result<f64> {
            self.device.synchronize()?;
            let started = Instant::now();
            for _ in 0..queued {
                call()?;
            }
            self.device.synchronize()?;
            Ok(started.elapsed().as_secs_f64() / queued as f64)
        };
        once(queued)?;
        queued = ((0.05 / once(queued)?) as usize).clamp(1, 10_000);
        let mut seconds = (0..RUNS).map(|_| once(queued)).collect::<Result<Vec<_>>>()?;
        let first = seconds[0];
        seconds.sort_by(f64::total_cmp);
        let median = seconds[RUNS / 2];
        let rate = work / median;
        println!(
            "{name:56} {:9.4} ms {rate:8.1} {unit:8} first {:9.4} ms",
            median * 1e3,
            first * 1e3
        );
        Ok(())
    }

    fn products(&self) -> Result<()> {
        let (dim, ffn) = (3840, 10240);
        for rows in [4224, 2432, 2304, 1152, 128, 64] {
            for (name, ins, outs, gated) in [
                ("qkv", dim, 3 * dim, false),
                ("out", dim, dim, false),
                ("w1|w3", dim, 2 * ffn, true),
                ("w2", ffn, dim, false),
            ] {
                let (x, w) = (self.random(&[rows, ins])?, self.random(&[outs, ins])?);
                let tera = 2.0 * (rows * ins * outs) as f64 / 1e12;
                let transposed = w.t()?;
                let cublas = || x.matmul(&transposed);
                self.time(&format!("{name} {rows}: cuBLAS"), tera, "TFLOP/s", cublas)?;
                let linear = Linear::new(w.clone(), None);
                let chosen = || linear.forward(&x);
                self.time(&format!("{name} {rows}: chosen"), tera, "TFLOP/s", chosen)?;
                if gated {
                    let linear = GatedLinear::new(w.clone())?;
                    let chosen = || linear.forward(&x);
                    self.time(&format!("{name} {rows}: gated"), tera, "TFLOP/s", chosen)?;
                }
                for share_a in [true, false] {
                    let widths: &[u32] = if gated { &[256, 128] } else { &[256, 192, 128] };
                    for &columns in widths {
                        for kind in [Kind::Plain, Kind::Gated] {
                            if kind == Kind::Gated && !gated {
                                continue;
                            }
                            let tiling = Tiling { columns, share_a, kind };
                            let shared = if share_a { "A" } else { "B" };
                            let name = format!("{name} {rows}: {columns} share {shared} {kind:?}");
                            self.time(&name, tera, "TFLOP/s", || matmul_tiled(&x, &w, tiling))?;
                        }
                    }
                }
            }
        }
        let x = self.random(&[8192, 8192])?;
        let tera = 2.0 * 8192f64.powi(3) / 1e12;
        let transposed = x.t()?;
        self.time("8192^3: cuBLAS", tera, "TFLOP/s", || x.matmul(&transposed))?;
        for share_a in [true, false] {
            let tiling = Tiling { columns: 256, share_a, kind: Kind::Plain };
            let name = format!("8192^3: 256 share_a {share_a}");
            self.time(&name, tera, "TFLOP/s", || matmul_tiled(&x, &x, tiling))?;
        }
        Ok(())
    }

    fn rows(&self) -> Result<()> {
        let (tokens, dim) = (4224, 3840);
        let giga = (tokens * dim * 2) as f64 / 1e9;
        let (x, y) = (self.random(&[tokens, dim])?, self.random(&[tokens, dim])?);
        let (weight, scale) = (self.random(&[dim])?, self.random(&[1, dim])?);
        let next = NextNorm { weight: &weight, scale: Some(&scale) };
        self.time("residual, gate, norm, norm", 4.0 * giga, "GB/s", || {
            residual_gate_norm_next(&x, &y, &weight, Some(&scale), &next, &[tokens], 1e-5)
        })?;
        let attention =
            Attention { heads: 30, kv_heads: 30, head_dim: 128, mask: Mask::Full, half: false };
        let head = self.random(&[128])?;
        let norm = QkNorm {
            q_weight: head.clone(),
            k_weight: head,
            eps: 1e-5,
            pairing: Pairing::Interleaved,
        };
        let angles = Tensor::randn(0f32, 1.0, (tokens, 64), &self.device)?;
        let rope = Rope { cos: angles.cos()?, sin: angles.sin()? };
        let qkv = self.random(&[tokens, 3 * dim])?;
        self.time("query and key norm, rotation", 4.0 * giga, "GB/s", || {
            norm.forward(&attention, qkv.clone(), &rope)
        })?;
        for (rows, seq_lens) in [(4224, vec![4224]), (1152, vec![1152]), (2304, vec![1152; 2])] {
            let qkv = self.random(&[rows, 3 * dim])?;
            let each = |&len: &usize| 4.0 * (len * len * dim) as f64 / 1e12;
            let tera = seq_lens.iter().map(each).sum();
            self.time(&format!("attention {seq_lens:?}"), tera, "TFLOP/s", || {
                attention.forward(&qkv, &seq_lens)
            })?;
        }
        let causal =
            Attention { heads: 32, kv_heads: 8, head_dim: 128, mask: Mask::Causal, half: false };
        let qkv = self.random(&[512, 48 * 128])?;
        let tera = 2.0 * (512 * 512 * 4096) as f64 / 1e12;
        self.time("attention 512, causal", tera, "TFLOP/s", || causal.forward(&qkv, &[512]))?;
        let wide =
            Attention { heads: 1, kv_heads: 1, head_dim: 512, mask: Mask::Full, half: false };
        let qkv = self.random(&[128 * 128, 3 * 512])?;
        let tera = 4.0 * (128f64).powi(4) * 512.0 / 1e12;
        self.time("attention 16384, 512 wide", tera, "TFLOP/s", || wide.forward(&qkv, &[128 * 128]))
    }

    /// What a block of the transformer does, as often as there are blocks, launched one by one and as a
    /// recording.
    fn blocks(&self) -> Result<()> {
        let (dim, ffn, blocks) = (3840, 10240, 30);
        for tokens in [4224, 1152] {
            let seq_lens = [tokens];
            let x = self.random(&[tokens, dim])?;
            let linear = |outs: usize, ins: usize| -> Result<Linear> {
                Ok(Linear::new((self.random(&[outs, ins])? * 0.02)?, None))
            };
            let (to_qkv, to_out, w2) =
                (linear(3 * dim, dim)?, linear(dim, dim)?, linear(dim, ffn)?);
            let w1_w3 = GatedLinear::new((self.random(&[2 * ffn, dim])? * 0.02)?)?;
            let (weight, scale) = (self.random(&[dim])?, self.random(&[1, dim])?);
            let next = NextNorm { weight: &weight, scale: Some(&scale) };
            let attention =
                Attention { heads: 30, kv_heads: 30, head_dim: 128, mask: Mask::Full, half: false };
            let head = self.random(&[128])?;
            let norm = QkNorm {
                q_weight: head.clone(),
                k_weight: head,
                eps: 1e-5,
                pairing: Pairing::Interleaved,
            };
            let angles = Tensor::randn(0f32, 1.0, (tokens, 64), &self.device)?;
            let rope = Rope { cos: angles.cos()?, sin: angles.sin()? };
            let all = || -> Result<()> {
                let (mut x, mut normed) = (x.clone(), x.clone());
                for _ in 0..blocks {
                    let qkv = norm.forward(&attention, to_qkv.forward(&normed)?, &rope)?;
                    let attended = to_out.forward(&attention.forward(&qkv, &seq_lens)?)?;
                    drop(qkv);
                    (x, normed) = residual_gate_norm_next(
                        &x,
                        &attended,
                        &weight,
                        Some(&scale),
                        &next,
                        &seq_lens,
                        1e-5,
                    )?;
                    let fed = w2.forward(&w1_w3.forward(&normed)?)?;
                    (x, normed) = residual_gate_norm_next(
                        &x,
                        &fed,
                        &weight,
                        Some(&scale),
                        &next,
                        &seq_lens,
                        1e-5,
                    )?;
                }
                Ok(())
            };
            let per_token = 2 * (4 * dim * dim + 3 * dim * ffn) + 4 * tokens * dim;
            let tera = (blocks * tokens * per_token) as f64 / 1e12;
            self.time(&format!("{blocks} blocks {tokens}: launched"), tera, "TFLOP/s", all)?;
            warm_up(&self.device, all)?;
            if let Some(graph) = CapturedGraph::capture(&self.device, Vec::new(), all)? {
                let name = format!("{blocks} blocks {tokens}: captured");
                self.time(&name, tera, "TFLOP/s", || graph.replay())?;
            }
        }
        Ok(())
    }

    fn pictures(&self) -> Result<()> {
        for (side, ins, outs) in [
            (128, 16, 512),
            (128, 512, 512),
            (256, 512, 512),
            (512, 512, 256),
            (512, 256, 256),
            (1024, 256, 128),
            (1024, 128, 128),
            (1024, 128, 3),
        ] {
            let x = self.random(&[1, side, side, ins])?;
            let conv = Conv2d::new(self.random(&[outs, ins, 3, 3])?, self.random(&[outs])?, 1)?;
            let tera = 2.0 * (side * side * ins * outs * 9) as f64 / 1e12;
            let name = format!("conv {side}, {ins} to {outs}");
            self.time(&name, tera, "TFLOP/s", || conv.forward(&ConvInput::plain(&x), None))?;
            if ins == outs {
                let residual = self.random(&[1, side, side, outs])?;
                self.time(&format!("{name}, residual"), tera, "TFLOP/s", || {
                    conv.forward(&ConvInput::plain(&x), Some(&residual))
                })?;
                let x = self.random(&[1, side / 2, side / 2, ins])?;
                self.time(&format!("{name}, upsampled"), tera, "TFLOP/s", || {
                    conv.forward(&ConvInput::upsampled(&x), None)
                })?;
            }
            if ins >= 32 {
                let norm = GroupNorm {
                    groups: 32,
                    weight: self.random(&[ins])?,
                    bias: self.random(&[ins])?,
                    eps: 1e-6,
                };
                let giga = 3.0 * (side * side * ins * 2) as f64 / 1e9;
                self.time(&format!("group norm {side}, {ins}"), giga, "GB/s", || norm.forward(&x))?;
            }
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    // cargo passes flags of its own to benchmarks.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with("--")).cloned();
    let capability = arguments.iter().find_map(|argument| argument.strip_prefix("--capability="));
    let capability = capability.map(str::parse).transpose().map_err(candle_core::Error::Msg)?;
    let cudnn = !arguments.iter().any(|argument| argument == "--without-cudnn");
    emulate(Emulation { capability, cudnn });
    let bench = Bench { device: cuda_device(0)?, filter };
    bench.blocks()?;
    bench.products()?;
    bench.rows()?;
    bench.pictures()
}
