//! Matrix products with a weight.

use candle_core::{Result, Tensor, cuda_backend::cudarc};
use cudarc::driver::DeviceRepr;
use half::bf16;

use super::{
    Gpu,
    source::{Kind, Source, Tiling},
    tensor::{TensorMap, address, blocks, launch, optional},
};

/// Fewer rows than this leave multiprocessors idle at the end, and cuBLAS with a pass of its own for
/// the activation is faster.
const FEWEST_ROWS: usize = 1024;

/// The kernel's `Args`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Args {
    pub m_tiles: i32,
    pub n_tiles: i32,
    pub k_steps: i32,
    pub group: i32,
    pub tiles_x: i32,
    pub tiles_y: i32,
    pub channel_steps: i32,
    pub taps_x: i32,
    pub offset_x: i32,
    pub offset_y: i32,
    pub columns: i32,
    pub residual: i32,
    pub bias: u64,
}

// SAFETY: plain numbers in the layout of `matmul.cu`.
unsafe impl DeviceRepr for Args {}

/// Tiles side by side and one above the other.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub rows: usize,
    pub columns: usize,
}

impl Gpu {
    /// `a b^T + bias`, or `silu(gate) * up` of that: `a` `(rows, depth)`, `b` `(columns, depth)`.
    /// `None` where cuBLAS is to do it: always where nothing follows the product, since its kernels
    /// are the faster ones.
    pub(super) fn matmul(
        &self,
        a: &Tensor,
        b: &Tensor,
        bias: Option<&Tensor>,
        gated: bool,
    ) -> Result<Option<Tensor>> {
        let ((rows, depth), (columns, _)) = (a.dims2()?, b.dims2()?);
        let aligned = depth.is_multiple_of(8) && columns.is_multiple_of(if gated { 16 } else { 8 });
        let fused = gated || bias.is_some();
        if !self.kernels.hopper || !aligned || !fused || rows < FEWEST_ROWS || depth == 0 {
            return Ok(None);
        }
        let kind = if gated { Kind::Gated } else { Kind::Plain };
        let widths: &[u32] = if gated { &[256, 128] } else { &[256, 192, 128, 64] };
        let tiling = self.choose(kind, widths, rows.div_ceil(Tiling::ROWS as usize), columns);
        self.matmul_tiled(a, b, bias, tiling).map(Some)
    }

    /// [`Self::matmul`] cut up in this way.
    pub(super) fn matmul_tiled(
        &self,
        a: &Tensor,
        b: &Tensor,
        bias: Option<&Tensor>,
        tiling: Tiling,
    ) -> Result<Tensor> {
        let ((rows, depth), (columns, b_depth)) = (a.dims2()?, b.dims2()?);
        if depth != b_depth || bias.is_some_and(|bias| bias.dims() != [columns]) {
            candle_core::bail!("a product of {:?} and {:?} with its bias", a.dims(), b.dims());
        }
        let (a, b) = (self.dense::<bf16>(a)?, self.dense::<bf16>(b)?);
        let bias = bias.map(|bias| self.dense::<bf16>(bias)).transpose()?;
        let out_columns = if tiling.kind == Kind::Gated { columns / 2 } else { columns };
        let out = self.empty::<bf16>(&[rows, out_columns])?;
        // Each block of a cluster loads half of what they share.
        let (a_tile, b_tile) = if tiling.share_a {
            (Tiling::ROWS / 2, tiling.columns)
        } else {
            (Tiling::ROWS, tiling.columns / 2)
        };
        let map_a = matrix(address::<bf16>(&a)?, rows, depth, a_tile)?;
        let map_b = matrix(address::<bf16>(&b)?, columns, depth, b_tile)?;
        let map_c = matrix(address::<bf16>(&out)?, rows, out_columns, Tiling::ROWS / 2)?;
        let tiles = Tiles {
            rows: rows.div_ceil(Tiling::ROWS as usize),
            columns: columns.div_ceil(tiling.columns as usize),
        };
        let args = Args {
            m_tiles: 0,
            n_tiles: 0,
            k_steps: depth.div_ceil(Tiling::DEPTH as usize) as i32,
            group: 0,
            tiles_x: 0,
            tiles_y: 0,
            channel_steps: 0,
            taps_x: 0,
            offset_x: 0,
            offset_y: 0,
            columns: columns as i32,
            residual: 0,
            bias: optional::<bf16>(bias.as_ref())?,
        };
        self.launch_tiles(tiling, tiles, [map_a, map_b, map_c, map_c], args)?;
        Ok(out)
    }

    pub(super) fn launch_tiles(
        &self,
        tiling: Tiling,
        tiles: Tiles,
        [a, b, c, residual]: [TensorMap; 4],
        args: Args,
    ) -> Result<()> {
        let columns = if tiling.share_a { tiles.columns.div_ceil(2) } else { tiles.columns };
        let args = Args {
            m_tiles: tiles.rows as i32,
            n_tiles: columns as i32,
            group: group(tiles.rows) as i32,
            ..args
        };
        let clusters = for_clusters(tiling, tiles).min(self.properties.multiprocessors / 2);
        let shared = tiling.shared_bytes();
        launch!(
            self,
            self.function_with(Source::Matmul(tiling), "matmul", shared)?,
            blocks((2 * clusters, 1, 1), 384, shared)?,
            a,
            b,
            c,
            residual,
            args,
        )
    }

    /// The tiling that is done soonest, if time goes with the columns that a multiprocessor works off.
    /// Narrow tiles read more for what they compute.
    pub(super) fn choose(
        &self,
        kind: Kind,
        widths: &[u32],
        row_tiles: usize,
        columns: usize,
    ) -> Tiling {
        let clusters = self.properties.multiprocessors / 2;
        let cost = |tiling: &Tiling| {
            let width = tiling.columns as usize;
            let tiles = Tiles { rows: row_tiles, columns: columns.div_ceil(width) };
            let rounds = for_clusters(*tiling, tiles).div_ceil(clusters);
            // Loads of a step, relative to its products.
            let loads = if tiling.share_a { 64 + width } else { 128 + width / 2 };
            let reading = loads as f64 / (128.0 * width as f64);
            (rounds * width) as f64 * (1.0 + 8.0 * reading)
        };
        let tilings = widths
            .iter()
            .flat_map(|&columns| [true, false].map(|share_a| Tiling { columns, share_a, kind }));
        let first = Tiling { columns: widths[0], share_a: true, kind };
        tilings.min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(first)
    }
}

/// Work for so many clusters: two tiles side by side, or two that follow each other.
fn for_clusters(tiling: Tiling, Tiles { rows, columns }: Tiles) -> usize {
    if tiling.share_a { rows * columns.div_ceil(2) } else { (rows * columns).div_ceil(2) }
}

/// Rows of tiles that are worked off together, in equal groups. At the transformer's shapes 17 drew the
/// least power of 6, 8, 11, 17 and 33.
fn group(m_tiles: usize) -> usize {
    const MOST: usize = 17;
    m_tiles.div_ceil(m_tiles.div_ceil(MOST)).max(1)
}

/// A dense matrix, read or written `tile` rows by 64 columns at a time.
pub(super) fn matrix(address: u64, rows: usize, columns: usize, tile: u32) -> Result<TensorMap> {
    TensorMap::new(address, &[columns, rows], &[columns * 2], &[Tiling::DEPTH, tile])
}
