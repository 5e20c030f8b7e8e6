//! A changed module of a file: which tensors make the change, and their shapes.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use super::{
    LoraError,
    adapter::AdapterConfig,
    extent::Extent,
    header::{FileSpan, Header},
    key::{Role, Side},
    rotation::Blocks,
};
use crate::overlay::{Change, Delta};

/// A changed module of a file.
#[derive(Clone, Debug)]
pub struct LoraModule {
    /// Without prefixes. Dots may be underscores, as kohya's tools write them.
    pub name: String,
    /// One of the file's own keys, for messages.
    pub key: String,
    /// Which matrices it can change.
    pub extent: Extent,
    /// Largest rank of its products; 0 if there is none.
    pub rank: usize,
    /// What the file says of it, if it does.
    pub alpha: Option<f64>,
    /// `alpha / rank`, or what the file has instead.
    pub scale: f64,
    way: Way,
}

/// What happens to the matrix.
#[derive(Clone, Debug)]
enum Way {
    /// This is added; then rows or columns may be given lengths of their own, as DoRA does.
    Sum { form: Form, magnitude: Option<Magnitude> },
    /// Rows or columns are rotated.
    Rotation(Blocks),
}

/// What is added, by the file's keys.
#[derive(Clone, Debug)]
enum Form {
    LowRank(Product),
    Hadamard([Product; 2]),
    Kronecker([Factor; 2]),
}

/// `up * down`: `(outs, rank)` and `(rank, ins)`.
#[derive(Clone, Debug)]
struct Product {
    up: String,
    down: String,
    outs: usize,
    rank: usize,
    ins: usize,
}

/// One side of a Kronecker product.
#[derive(Clone, Debug)]
enum Factor {
    Whole { key: String, dims: [usize; 2] },
    Product(Product),
}

/// DoRA's lengths, and the shape in which they are multiplied: of rows or of columns.
#[derive(Clone, Debug)]
struct Magnitude {
    key: String,
    shape: [usize; 2],
}

/// The file's keys of one module, by what they are.
pub(super) type Parts = BTreeMap<Role, String>;

impl LoraModule {
    /// `None` if the parts change nothing.
    ///
    /// # Errors
    ///
    /// [`LoraError`] if a part is missing, or if shapes do not go together.
    pub(super) fn new(
        header: &Header,
        config: &AdapterConfig,
        name: String,
        mut parts: Parts,
    ) -> Result<Option<Self>, LoraError> {
        let alpha = parts.remove(&Role::Alpha);
        let magnitude = parts.remove(&Role::Magnitude);
        let Some(key) = parts.values().next().cloned() else {
            return match magnitude {
                Some(key) => Err(incomplete(header, key, "the factors")),
                None => Ok(None),
            };
        };
        let own = alpha.map(|key| scalar(header, &key)).transpose()?;
        if let Some(blocks) = rotation(header, config, &mut parts, own)? {
            if let Some(key) = parts.into_values().chain(magnitude).next() {
                let turned = blocks.key();
                return Err(header.invalid(format!("'{key}' changes what '{turned}' rotates")));
            }
            return Ok(Some(Self::rotated(name, key, blocks)));
        }
        let form = Form::new(header, &key, parts)?;
        let [outs, ins] = form.dims(header)?;
        let rank = form.rank();
        let (alpha, scale) = match (own, form.scaling_rank()) {
            (Some(alpha), Some(rank)) => (Some(alpha), alpha / rank as f64),
            (None, Some(rank)) if matches!(form, Form::LowRank(_)) => {
                (config.alpha(&name), config.scale(&name, rank))
            }
            // Two whole matrices have no rank, and an alpha beside them means nothing.
            (alpha, _) => (alpha, 1.0),
        };
        if !scale.is_finite() {
            return Err(LoraError::NotFinite { file: header.label().into(), key });
        }
        let magnitude =
            magnitude.map(|key| Magnitude::new(header, key, [outs, ins])).transpose()?;
        let extent = Extent::Matrix([outs, ins]);
        let way = Way::Sum { form, magnitude };
        Ok(Some(Self { name, key, extent, rank, alpha, scale, way }))
    }

    fn rotated(name: String, key: String, blocks: Blocks) -> Self {
        let (extent, way) = (blocks.extent(), Way::Rotation(blocks));
        Self { name, key, extent, rank: 0, alpha: None, scale: 1.0, way }
    }

    /// Whether rows or columns are given a length of their own, as DoRA does.
    pub(super) fn is_decomposed(&self) -> bool {
        matches!(self.way, Way::Sum { magnitude: Some(_), .. })
    }

    /// Reads the tensors.
    ///
    /// # Errors
    ///
    /// [`LoraError`] if the file cannot be read or if a value is not finite.
    pub(super) fn change(&self, header: &Header, strength: f64) -> Result<Change, LoraError> {
        let (form, magnitude) = match &self.way {
            Way::Sum { form, magnitude } => (form, magnitude),
            Way::Rotation(blocks) => {
                return Ok(Change::new(Delta::Rotation(blocks.read(header)?), strength));
            }
        };
        let pair = |product: &Product| product.read(header);
        let delta = match form {
            Form::LowRank(product) => {
                let (up, down) = pair(product)?;
                Delta::LowRank { up, down }
            }
            Form::Hadamard([first, second]) => Delta::Hadamard([pair(first)?, pair(second)?]),
            Form::Kronecker([left, right]) => Delta::Kronecker {
                left: left.read(header)?,
                right: right.read(header)?,
                rows: None,
            },
        };
        let magnitude =
            magnitude.as_ref().map(|of| matrix_of(header, &of.key, of.shape)).transpose()?;
        Ok(Change { scale: self.scale, magnitude, ..Change::new(delta, strength) })
    }
}

impl Form {
    fn new(header: &Header, key: &str, mut parts: Parts) -> Result<Self, LoraError> {
        let product = |up: Role, down: Role, names: [&'static str; 2], parts: &mut Parts| match (
            parts.remove(&up),
            parts.remove(&down),
        ) {
            (Some(up), Some(down)) => Product::new(header, up, down).map(Some),
            (Some(key), None) => Err(incomplete(header, key, names[1])),
            (None, Some(key)) => Err(incomplete(header, key, names[0])),
            (None, None) => Ok(None),
        };
        let plain = product(Role::Up, Role::Down, ["up (or B)", "down (or A)"], &mut parts)?;
        let ends = ["_a", "_b"];
        let sides = |side: Side, parts: &mut Parts| {
            let hada = product(Role::HadaUp(side), Role::HadaDown(side), ends, parts)?;
            let whole = parts.remove(&Role::Lokr(side));
            let lokr =
                match (whole, product(Role::LokrUp(side), Role::LokrDown(side), ends, parts)?) {
                    (Some(key), None) => Some(Factor::Whole { dims: matrix(header, &key)?, key }),
                    (None, Some(product)) => Some(Factor::Product(product)),
                    (None, None) => None,
                    (Some(key), Some(_)) => {
                        return Err(
                            header.invalid(format!("'{key}' is there whole and as a product"))
                        );
                    }
                };
            Ok((hada, lokr))
        };
        let (first_hada, left) = sides(Side::First, &mut parts)?;
        let (second_hada, right) = sides(Side::Second, &mut parts)?;
        match (plain, first_hada, second_hada, left, right) {
            (Some(product), None, None, None, None) => Ok(Self::LowRank(product)),
            (None, Some(first), Some(second), None, None) => Ok(Self::Hadamard([first, second])),
            (None, None, None, Some(left), Some(right)) => Ok(Self::Kronecker([left, right])),
            (None, Some(_), None, None, None) => Err(incomplete(header, key.into(), "hada_w2")),
            (None, None, Some(_), None, None) => Err(incomplete(header, key.into(), "hada_w1")),
            (None, None, None, Some(_), None) => Err(incomplete(header, key.into(), "lokr_w2")),
            (None, None, None, None, Some(_)) => Err(incomplete(header, key.into(), "lokr_w1")),
            _ => Err(header.invalid(format!("the module of '{key}' is changed in two ways"))),
        }
    }

    /// `(out, in)` of the change.
    fn dims(&self, header: &Header) -> Result<[usize; 2], LoraError> {
        match self {
            Self::LowRank(product) => Ok([product.outs, product.ins]),
            Self::Hadamard([first, second]) => {
                let dims = [first.outs, first.ins];
                if dims == [second.outs, second.ins] {
                    return Ok(dims);
                }
                let (first, second) = (&first.up, &second.up);
                Err(header.invalid(format!("'{first}' and '{second}' make matrices of two sizes")))
            }
            Self::Kronecker([left, right]) => {
                let ([a, b], [c, d]) = (left.dims(), right.dims());
                let dims = a.checked_mul(c).zip(b.checked_mul(d));
                let (outs, ins) = dims.ok_or_else(|| header.invalid("it is too large".into()))?;
                Ok([outs, ins])
            }
        }
    }

    fn rank(&self) -> usize {
        match self {
            Self::LowRank(product) => product.rank,
            Self::Hadamard(products) => products.iter().map(|one| one.rank).max().unwrap_or(0),
            Self::Kronecker(sides) => sides.iter().filter_map(Factor::rank).max().unwrap_or(0),
        }
    }

    /// What alpha is divided by, as LyCORIS and ComfyUI do.
    fn scaling_rank(&self) -> Option<usize> {
        match self {
            Self::LowRank(product) | Self::Hadamard([product, _]) => Some(product.rank),
            Self::Kronecker([left, right]) => right.rank().or(left.rank()),
        }
    }
}

/// The blocks of an OFT, if these are its parts. Its alpha is what bounds them.
fn rotation(
    header: &Header,
    config: &AdapterConfig,
    parts: &mut Parts,
    alpha: Option<f64>,
) -> Result<Option<Blocks>, LoraError> {
    if let Some(key) = parts.remove(&Role::RowBlocks) {
        let lengths = parts.remove(&Role::RowLengths);
        return Blocks::of_rows(header, key, alpha.unwrap_or(0.0), lengths).map(Some);
    }
    if let Some(key) = parts.get(&Role::RowLengths) {
        return Err(incomplete(header, key.clone(), "oft_blocks"));
    }
    let columns = parts.remove(&Role::ColumnBlocks);
    columns.map(|key| Blocks::of_columns(header, config, key)).transpose()
}

impl Product {
    fn new(header: &Header, up: String, down: String) -> Result<Self, LoraError> {
        let ([outs, rank], [down_rank, ins]) = (matrix(header, &up)?, matrix(header, &down)?);
        if rank != down_rank {
            return Err(header
                .invalid(format!("'{up}' has rank {rank}, but '{down}' has rank {down_rank}")));
        }
        Ok(Self { up, down, outs, rank, ins })
    }

    fn read(&self, header: &Header) -> Result<(Tensor, Tensor), LoraError> {
        Ok((
            matrix_of(header, &self.up, [self.outs, self.rank])?,
            matrix_of(header, &self.down, [self.rank, self.ins])?,
        ))
    }
}

impl Factor {
    fn dims(&self) -> [usize; 2] {
        match self {
            Self::Whole { dims, .. } => *dims,
            Self::Product(product) => [product.outs, product.ins],
        }
    }

    fn rank(&self) -> Option<usize> {
        match self {
            Self::Whole { .. } => None,
            Self::Product(product) => Some(product.rank),
        }
    }

    /// The matrix, in f32 where it is a product.
    fn read(&self, header: &Header) -> Result<Tensor, LoraError> {
        match self {
            Self::Whole { key, dims } => matrix_of(header, key, *dims),
            Self::Product(product) => {
                let (up, down) = product.read(header)?;
                let wide = |x: Tensor| x.to_dtype(DType::F32);
                wide(up).and_then(|up| up.matmul(&wide(down)?)).map_err(LoraError::backend)
            }
        }
    }
}

impl Magnitude {
    fn new(header: &Header, key: String, [outs, ins]: [usize; 2]) -> Result<Self, LoraError> {
        let FileSpan { shape, .. } = header.span(&key)?;
        let end = shape.iter().rposition(|&side| side != 1).map_or(0, |last| last + 1);
        let shape = match shape[..end] {
            [count] if count == outs => [outs, 1],
            [1, count] if count == ins => [1, ins],
            [] if outs == 1 => [1, 1],
            _ => {
                let needed = format!("[{outs}], [{outs}, 1] or [1, {ins}]");
                return Err(
                    header.invalid(format!("'{key}' has shape {shape:?}, but must have {needed}"))
                );
            }
        };
        Ok(Self { key, shape })
    }
}

fn incomplete(header: &Header, key: String, lacks: &'static str) -> LoraError {
    LoraError::Incomplete { file: header.label().into(), key, lacks }
}

/// Rows and columns. A convolution of 1 x 1, as some tools write linear layers, is a matrix too.
fn matrix(header: &Header, key: &str) -> Result<[usize; 2], LoraError> {
    let FileSpan { shape, .. } = header.span(key)?;
    match shape[..] {
        [rows, cols] | [rows, cols, 1, 1] if rows > 0 && cols > 0 => Ok([rows, cols]),
        _ => Err(header.invalid(format!("'{key}' has shape {shape:?}, but must be a matrix"))),
    }
}

/// A tensor as a matrix of finite values.
fn matrix_of(header: &Header, key: &str, [rows, cols]: [usize; 2]) -> Result<Tensor, LoraError> {
    header.finite(key)?.reshape((rows, cols)).map_err(LoraError::backend)
}

fn scalar(header: &Header, key: &str) -> Result<f64, LoraError> {
    let values = header.tensor(key)?.to_dtype(DType::F64).and_then(|x| x.flatten_all());
    let values = values.and_then(|x| x.to_vec1::<f64>());
    match values.map_err(LoraError::backend)?[..] {
        [value] if value.is_finite() => Ok(value),
        [_] => Err(LoraError::NotFinite { file: header.label().into(), key: key.into() }),
        _ => Err(header.invalid(format!("'{key}' must be one number"))),
    }
}
