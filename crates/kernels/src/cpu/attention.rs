//! Softmax attention over packed sequences, one block of queries at a time.

use parking_lot::Mutex;
use rayon::prelude::*;

use super::{
    gemm::{MatMut, MatRef, blocks, multiply},
    math,
    rows::Heads,
    simd::Simd,
};

/// Queries a task takes. Scores of a block against all keys stay in the second-level cache for
/// pictures of usual size.
const QUERIES: usize = 64;

struct Task {
    /// First row of the sequence, and its length.
    start: usize,
    len: usize,
    head: usize,
    /// Queries of this block, counted within the sequence.
    first: usize,
    count: usize,
}

/// `qkv` holds rows of queries, keys and values; `out` gets `(rows, queries * dim)`.
pub(crate) fn attention(
    qkv: &[f32],
    heads: Heads,
    seq_lens: &[usize],
    causal: bool,
    scale: f32,
    out: &mut [f32],
) {
    let (dim, pitch, out_pitch) = (heads.dim, heads.row(), heads.queries * heads.dim);
    let simd = Simd::new();
    let tasks = tasks(heads, seq_lens);
    // Blocks of different heads interleave in `out`, so each task makes its block by itself and
    // copies it in under a lock; the copy is a hundredth of the work.
    let out = Mutex::new(out);
    tasks.par_iter().for_each_init(
        || (Vec::new(), Vec::new()),
        |(scores, block), task| {
            let seen = if causal { task.first + task.count } else { task.len };
            let row = |i: usize, offset: usize| (task.start + i) * pitch + offset;
            let kv_head = task.head / (heads.queries / heads.keys);
            let q = &qkv[row(task.first, task.head * dim)..];
            let k = &qkv[row(0, (heads.queries + kv_head) * dim)..];
            let v = &qkv[row(0, (heads.queries + heads.keys + kv_head) * dim)..];
            scores.resize(task.count * seen, 0.0);
            block.resize(task.count * dim, 0.0);
            multiply(
                MatMut::row_major(scores, task.count, seen, seen),
                MatRef::row_major(q, task.count, dim, pitch),
                MatRef::transposed(k, dim, seen, pitch),
                false,
            );
            simd.run(
                #[inline(always)]
                || {
                    for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
                        let visible = if causal { task.first + i + 1 } else { seen };
                        softmax(&mut row[..visible], scale);
                        row[visible..].fill(0.0);
                    }
                },
            );
            multiply(
                MatMut::row_major(block, task.count, dim, dim),
                MatRef::row_major(scores, task.count, seen, seen),
                MatRef::row_major(v, seen, dim, pitch),
                false,
            );
            let mut out = out.lock();
            for (i, values) in block.chunks_exact(dim).enumerate() {
                let at = (task.start + task.first + i) * out_pitch + task.head * dim;
                out[at..at + dim].copy_from_slice(values);
            }
        },
    );
}

fn tasks(heads: Heads, seq_lens: &[usize]) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut start = 0;
    for &len in seq_lens {
        for head in 0..heads.queries {
            tasks.extend(blocks(len, QUERIES).map(|b| Task {
                start,
                len,
                head,
                first: b.start,
                count: b.len(),
            }));
        }
        start += len;
    }
    tasks
}

#[inline(always)]
fn softmax(row: &mut [f32], scale: f32) {
    let max = math::max(row) * scale;
    for v in row.iter_mut() {
        *v = math::exp(v.mul_add(scale, -max));
    }
    let inverse = 1.0 / math::sum_by(row, |v| v);
    for v in row.iter_mut() {
        *v *= inverse;
    }
}
