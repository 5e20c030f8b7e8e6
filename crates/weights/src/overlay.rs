//! Changes on top of a checkpoint's tensors.
//!
//! The files stay as they are. A tensor that has changes is read from its file, summed in f32 and
//! rounded once, so taking the changes away and reading it again gives the original bits. Changes of a
//! matrix that stays packed are added to its products instead, and so are those that a forward for a
//! negative prompt goes without.

mod passes;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};
use half::f16;
use llm_dit_kernels::SideBranch;

use crate::{LoadError, Rows};

/// What is added to a tensor, before its scale.
#[derive(Clone, Debug)]
pub enum Delta {
    /// `up * down`: `(out, rank)` and `(rank, in)`. A LoRA.
    LowRank { up: Tensor, down: Tensor },
    /// Two such products, multiplied value by value. A LoHa.
    Hadamard([(Tensor, Tensor); 2]),
    /// The Kronecker product of two matrices, or a share of its rows. A LoKr.
    Kronecker { left: Tensor, right: Tensor, rows: Option<Rows> },
    /// As many values as the tensor has.
    Full(Tensor),
    /// What turning blocks of rows or columns changes. An OFT.
    Rotation(Rotation),
}

/// Blocks of a matrix's rows or columns, each turned by a matrix of its own.
#[derive(Clone, Debug)]
pub struct Rotation {
    pub axis: Axis,
    /// `(blocks, side, side)`: the rotations minus the identity. One block stands for as many as there
    /// are.
    pub turn: Tensor,
    /// `(out, 1)`: what the turned rows are multiplied with.
    pub lengths: Option<Tensor>,
}

/// What of a matrix turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Rows,
    Columns,
}

impl Rotation {
    /// The turned matrix minus the matrix, both in f32.
    fn values(&self, matrix: &Tensor) -> candle_core::Result<Tensor> {
        let wide = |x: &Tensor| x.to_device(matrix.device())?.to_dtype(DType::F32);
        let (_, side, _) = self.turn.dims3()?;
        // The axis that turns comes first; `x -> R x` of each of its blocks.
        let turned = |matrix: &Tensor| {
            let (all, others) = matrix.dims2()?;
            let blocks = matrix.contiguous()?.reshape((all / side, side, others))?;
            let turn = wide(&self.turn)?.broadcast_as((all / side, side, side))?.contiguous()?;
            turn.matmul(&blocks)?.reshape((all, others))
        };
        let change = match self.axis {
            Axis::Rows => turned(matrix)?,
            Axis::Columns => turned(&matrix.t()?)?.t()?.contiguous()?,
        };
        match &self.lengths {
            Some(lengths) => (change + matrix)?.broadcast_mul(&wide(lengths)?)? - matrix,
            None => Ok(change),
        }
    }

    /// What of it changes these rows. `None` if a block has rows of two shares.
    fn share(&self, rows: Rows) -> candle_core::Result<Option<Self>> {
        let turn = match self.axis {
            Axis::Rows if !self.turn.dim(0)?.is_multiple_of(rows.of) => return Ok(None),
            Axis::Rows => rows.share(&self.turn)?,
            Axis::Columns => self.turn.clone(),
        };
        let lengths = self.lengths.as_ref().map(|lengths| rows.share(lengths)).transpose()?;
        Ok(Some(Self { axis: self.axis, turn, lengths }))
    }
}

/// A change of one tensor.
#[derive(Clone, Debug)]
pub struct Change {
    pub delta: Delta,
    /// Of the file: what its values are multiplied with.
    pub scale: f64,
    /// Of the caller: 0 is no change, 1 the file's.
    pub strength: f64,
    /// DoRA's: the length that each row of the sum is given, `(out, 1)`, or each column, `(1, in)`.
    pub magnitude: Option<Tensor>,
    /// Of the caller: not for negative prompts.
    pub positive_only: bool,
}

impl Delta {
    /// In f32 on the device of the tensor that it changes, `base` in f32.
    fn values(&self, base: &Tensor) -> candle_core::Result<Tensor> {
        let wide = |x: &Tensor| x.to_device(base.device())?.to_dtype(DType::F32);
        let product = |(up, down): &(Tensor, Tensor)| wide(up)?.matmul(&wide(down)?);
        match self {
            Self::LowRank { up, down } => wide(up)?.matmul(&wide(down)?),
            Self::Hadamard([first, second]) => product(first)?.mul(&product(second)?),
            Self::Kronecker { left, right, rows } => {
                let whole = kronecker(&wide(left)?, &wide(right)?)?;
                match rows {
                    Some(rows) => rows.share(&whole),
                    None => Ok(whole),
                }
            }
            Self::Full(values) => wide(values)?.reshape(base.shape()),
            Self::Rotation(rotation) => rotation.values(base),
        }
    }
}

impl Change {
    /// With the file's scale 1 and without a magnitude, for all prompts.
    pub fn new(delta: Delta, strength: f64) -> Self {
        Self { delta, scale: 1.0, strength, magnitude: None, positive_only: false }
    }

    /// `(up, down, scale)` of a plain LoRA.
    fn low_rank(&self) -> Option<(&Tensor, &Tensor, f64)> {
        match (&self.delta, &self.magnitude) {
            (Delta::LowRank { up, down }, None) => Some((up, down, self.scale * self.strength)),
            _ => None,
        }
    }

    /// What of it changes these rows of the tensor. `None` if a row's change depends on other rows.
    ///
    /// # Errors
    ///
    /// When a tensor cannot be copied.
    pub fn share(&self, rows: Rows) -> candle_core::Result<Option<Self>> {
        let delta = match &self.delta {
            Delta::LowRank { up, down } => {
                Delta::LowRank { up: rows.share(up)?, down: down.clone() }
            }
            Delta::Hadamard([(up, down), (up_2, down_2)]) => Delta::Hadamard([
                (rows.share(up)?, down.clone()),
                (rows.share(up_2)?, down_2.clone()),
            ]),
            Delta::Kronecker { left, right, .. } => {
                Delta::Kronecker { left: left.clone(), right: right.clone(), rows: Some(rows) }
            }
            Delta::Full(values) => Delta::Full(rows.share(values)?),
            Delta::Rotation(rotation) => match rotation.share(rows)? {
                Some(share) => Delta::Rotation(share),
                None => return Ok(None),
            },
        };
        let magnitude = match &self.magnitude {
            Some(columns) if columns.dim(0)? == 1 => return Ok(None),
            Some(of_rows) => Some(rows.share(of_rows)?),
            None => None,
        };
        Ok(Some(Self { delta, magnitude, ..*self }))
    }

    /// The tensor with this change, in f32.
    fn apply(&self, base: &Tensor) -> candle_core::Result<Tensor> {
        let delta = self.delta.values(base)?;
        match &self.magnitude {
            None => base + (delta * (self.scale * self.strength))?,
            Some(magnitude) => {
                let changed = (base + (delta * self.scale)?)?;
                let magnitude = magnitude.to_device(base.device())?.to_dtype(DType::F32)?;
                let axis = usize::from(magnitude.dim(0)? == base.dim(0)?);
                let lengths = changed.sqr()?.sum_keepdim(axis)?.sqrt()?;
                let decomposed = changed.broadcast_mul(&magnitude.broadcast_div(&lengths)?)?;
                // As ComfyUI: a strength between 0 and 1 lies between without and with it.
                base + ((decomposed - base)? * self.strength)?
            }
        }
    }
}

/// `(a, b)` and `(c, d)` to `(a c, b d)`, as `torch.kron`.
fn kronecker(left: &Tensor, right: &Tensor) -> candle_core::Result<Tensor> {
    let ((a, b), (c, d)) = (left.dims2()?, right.dims2()?);
    let blocks = left.reshape((a, 1, b, 1))?.broadcast_mul(&right.reshape((1, c, 1, d))?)?;
    blocks.reshape((a * c, b * d))
}

/// Changes by the name of the tensor they belong to, in the order in which they are summed.
#[derive(Clone, Debug, Default)]
pub struct Overlay(BTreeMap<String, Vec<Change>>);

impl Overlay {
    /// A change whose strength is 0 changes nothing and is left out.
    pub fn add(&mut self, tensor: impl Into<String>, change: Change) {
        if change.strength != 0.0 {
            self.0.entry(tensor.into()).or_default().push(change);
        }
    }

    /// Puts another overlay's changes after these.
    pub fn extend(&mut self, other: Self) {
        for (tensor, changes) in other.0 {
            self.0.entry(tensor).or_default().extend(changes);
        }
    }

    /// Tensors that have changes.
    pub fn tensors(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// True when there are changes that the values of this tensor are to have.
    pub(crate) fn changes(&self, tensor: &str) -> bool {
        self.some(tensor, false).next().is_some()
    }

    /// True when there are no changes at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when all changes of this tensor are of low rank, or there are none.
    pub(crate) fn is_low_rank(&self, tensor: &str) -> bool {
        self.changes_of(tensor).iter().all(|change| change.low_rank().is_some())
    }

    fn changes_of(&self, tensor: &str) -> &[Change] {
        self.0.get(tensor).map(Vec::as_slice).unwrap_or_default()
    }

    /// Changes of low rank of matrices whose rows follow each other, names and counts of rows, as what is
    /// added to products with all of them: those that [`Self::has_beside`] tells of, or all others.
    /// `None` without changes.
    ///
    /// # Errors
    ///
    /// [`LoadError::Overflow`] if a factor has values that `dtype` does not hold; fails if the device
    /// does.
    pub(crate) fn side_branch(
        &self,
        matrices: &[(&str, usize)],
        beside: bool,
        device: &Device,
        dtype: DType,
    ) -> Result<Option<SideBranch>, LoadError> {
        let all = matrices.iter().map(|(_, rows)| rows).sum::<usize>();
        let (mut ups, mut downs) = (Vec::new(), Vec::new());
        let mut first = 0;
        for (name, rows) in matrices {
            for change in self.some(name, beside) {
                let Some((up, down, scale)) = change.low_rank() else { continue };
                let wide = |x: &Tensor| x.to_device(device)?.to_dtype(DType::F32);
                let up = (wide(up)? * scale)?;
                // Nothing is added to the other rows.
                let up = up.pad_with_zeros(0, first, all - first - rows)?.to_dtype(dtype)?;
                let down = wide(down)?.to_dtype(dtype)?;
                if !is_finite(&up)? || !is_finite(&down)? {
                    return Err(LoadError::Overflow { name: (*name).to_owned() });
                }
                ups.push(up);
                downs.push(down);
            }
            first += rows;
        }
        if ups.is_empty() {
            return Ok(None);
        }
        let (up, down) = (Tensor::cat(&ups, 1)?, Tensor::cat(&downs, 0)?);
        Ok(Some(SideBranch { down: down.contiguous()?, up: up.contiguous()? }))
    }

    /// True unless no value of this tensor's changes can be near the end of the range of `dtype`: then
    /// their sum with a weight is to be looked at. All changes are of low rank.
    pub(crate) fn may_overflow(&self, tensor: &str, dtype: DType) -> Result<bool, LoadError> {
        let most = if dtype == DType::F16 { f16::MAX.to_f64() } else { f64::from(f32::MAX) };
        let mut bound = 0.0;
        for change in self.changes_of(tensor) {
            let Some((up, down, scale)) = change.low_rank() else { return Ok(true) };
            // No value of a product is above the product of the longest row and the longest column.
            let longest = |x: &Tensor, axis: usize| -> Result<f64, LoadError> {
                let squares = x.to_dtype(DType::F64)?.sqr()?.sum(axis)?;
                Ok(squares.max(0)?.to_scalar::<f64>()?.sqrt())
            };
            let up = up.to_device(&Device::Cpu)?;
            let down = down.to_device(&Device::Cpu)?;
            bound += scale.abs() * longest(&up, 1)? * longest(&down, 0)?;
        }
        Ok(bound.is_nan() || bound >= most / 4.0)
    }

    /// The file's tensor in `dtype`, changed where there are changes for `name`.
    pub(crate) fn fuse(&self, name: &str, base: Tensor, dtype: DType) -> Result<Tensor, LoadError> {
        if !self.changes(name) {
            return Ok(base.to_dtype(dtype)?);
        }
        let mut sum = base.to_dtype(DType::F32)?;
        for change in self.some(name, false) {
            sum = change.apply(&sum)?;
        }
        let rounded = sum.to_dtype(dtype)?;
        if is_finite(&rounded)? {
            Ok(rounded)
        } else {
            Err(LoadError::Overflow { name: name.to_owned() })
        }
    }
}

/// `0 * x` is 0 exactly where `x` is finite, and NaN elsewhere.
pub(crate) fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    let wide = tensor.to_dtype(DType::F32)?;
    Ok((wide * 0.0)?.sum_all()?.to_scalar::<f32>()? == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(values: &[f32], rows: usize) -> Tensor {
        Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).expect("a matrix")
    }

    fn change(up: f32, down: f32, scale: f64) -> Change {
        let (up, down) = (matrix(&[up, 2.0 * up], 2), matrix(&[down, -down], 1));
        Change { scale, ..Change::new(Delta::LowRank { up, down }, 1.0) }
    }

    #[test]
    fn changes_are_summed_in_f32_and_rounded_once() {
        // Each step alone is less than half of bf16's spacing at 1 (2^-7), both together are not.
        let small = 2f32.powi(-9) * 1.5;
        let mut overlay = Overlay::default();
        for _ in 0..2 {
            overlay.add("w", change(1.0, small, 1.0));
        }
        let base = matrix(&[1.0; 4], 2);
        let fused = overlay.fuse("w", base.clone(), DType::BF16).expect("finite");
        let fused = fused.to_dtype(DType::F32).expect("f32");
        let fused = fused.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("values");
        assert_eq!(fused[0], 1.0 + 2f32.powi(-7));
        let other = overlay.fuse("v", base.clone(), DType::F32).expect("as it is");
        assert_eq!(other.to_vec2::<f32>().expect("values"), vec![vec![1.0; 2]; 2]);
    }

    #[test]
    fn a_full_change_is_added_with_its_scale() {
        let mut overlay = Overlay::default();
        let values = Tensor::from_slice(&[1.0f32, 2.0, -3.0, 0.5], 4, &Device::Cpu).expect("four");
        overlay.add("w", Change::new(Delta::Full(values), 0.5));
        overlay.add("w", change(1.0, 1.0, 1.0));
        let fused = overlay.fuse("w", matrix(&[1.0; 4], 2), DType::F32).expect("finite");
        let expected = vec![vec![2.5, 1.0], vec![1.5, -0.75]];
        assert_eq!(fused.to_vec2::<f32>().expect("values"), expected);
    }

    #[test]
    fn what_is_not_finite_after_rounding_is_refused() {
        let mut overlay = Overlay::default();
        overlay.add("w", change(1.0, 1.0, 1e5));
        let base = matrix(&[1.0; 4], 2);
        assert!(overlay.fuse("w", base.clone(), DType::F32).is_ok());
        let error = overlay.fuse("w", base, DType::F16).expect_err("too large for f16");
        assert!(error.to_string().contains("'w'"), "{error}");
    }

    #[test]
    fn a_scale_of_zero_touches_nothing() {
        let mut overlay = Overlay::default();
        overlay.add("w", Change { strength: 0.0, ..change(1.0, 1.0, 1.0) });
        assert!(overlay.is_empty());
    }
}
