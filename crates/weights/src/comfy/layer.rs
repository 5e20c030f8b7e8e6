//! One quantized layer: its weight, what lies beside it, and what both make.

use std::{collections::BTreeMap, sync::Arc};

use half::{bf16, f16};
use llm_dit_kernels::Format;
use safetensors::Dtype;
use serde_json::Value;

use crate::{
    LoadError,
    mapped::Mapped,
    scales::{BlockScales, RowScales, Scales, tiled_bytes},
    source::{Encoding, TensorSpan},
};

/// Names of what is used up with a layer, whether it is read or not. Scales of inputs are for products
/// in the small type, which are not computed here.
const BESIDE: [&str; 6] =
    ["comfy_quant", "weight_scale", "weight_scale_2", "input_scale", "scale_weight", "scale_input"];

/// Columns of a group of rotated weights, where the file says nothing else.
const GROUP: u64 = 256;
/// Largest group.
const MOST_GROUP: u64 = 1 << 14;

/// The weight, packed, and the names of what it took in.
type Packed = (TensorSpan, Vec<Arc<str>>);

/// A layer of a file.
pub(super) struct Layer<'a> {
    pub module: &'a str,
    pub weight: &'a TensorSpan,
    /// All tensors of the model in the file.
    pub spans: &'a BTreeMap<&'a str, &'a TensorSpan>,
    pub file: &'a Mapped,
}

impl<'a> Layer<'a> {
    pub fn beside(&self, name: &str) -> Option<&'a TensorSpan> {
        self.spans.get(&*format!("{}.{name}", self.module)).copied()
    }

    fn invalid(&self, cause: impl std::fmt::Display) -> LoadError {
        let cause = format!("the quantized layer '{}' {cause}", self.module);
        LoadError::Invalid { path: self.file.path.clone(), cause }
    }

    /// JSON that is stored as bytes.
    ///
    /// # Errors
    ///
    /// Where it is none.
    pub fn json(&self, span: &TensorSpan, most: usize) -> Result<Value, LoadError> {
        let bytes = span.range();
        if bytes.len() > most {
            return Err(self.invalid(format_args!("has {} bytes in comfy_quant", bytes.len())));
        }
        let value = self.file.peek(bytes, |bytes| Ok(serde_json::from_slice(bytes)))?;
        value.map_err(|error| self.invalid(format_args!("has no JSON in comfy_quant ({error})")))
    }

    /// The layout with `scale_weight`.
    ///
    /// # Errors
    ///
    /// Where the weight is not fp8, or the scale is odd.
    pub fn older(&self) -> Result<Option<Packed>, LoadError> {
        let Some(scale) = self.beside("scale_weight") else { return Ok(None) };
        let format = match self.weight_type() {
            Some(Dtype::F8_E5M2) => Format::E5m2,
            Some(Dtype::F8_E4M3 | Dtype::U8) => Format::E4m3,
            other => return Err(self.odd_type("fp8 with scales", other)),
        };
        let (rows, columns) = self.dims()?;
        let scales = Scales { rows: self.row_scales(scale, rows)?, blocks: None };
        self.packed(format, columns, scales).map(Some)
    }

    /// The layout with a description.
    ///
    /// # Errors
    ///
    /// Where the format is not known, or what belongs to it is missing or odd.
    pub fn described(&self, about: &Value) -> Result<Packed, LoadError> {
        let format = about.as_str().or_else(|| about.get("format").and_then(Value::as_str));
        let format = format.ok_or_else(|| self.invalid("has no format in its description"))?;
        let found = self.weight_type();
        let is = |dtype: Dtype| matches!(found, Some(f) if f == dtype || f == Dtype::U8);
        match format {
            "float8_e4m3fn" if is(Dtype::F8_E4M3) => self.by_rows(Format::E4m3),
            "float8_e5m2" if is(Dtype::F8_E5M2) => self.by_rows(Format::E5m2),
            "int8_tensorwise" if found == Some(Dtype::I8) => {
                self.by_rows(Format::Int8 { group: self.group(about)? })
            }
            "nvfp4" if is(Dtype::U8) => {
                let second = self.needed("weight_scale_2")?;
                let RowScales::All(scale) = self.row_scales(second, 0)? else {
                    return Err(self.invalid("has more than one value in weight_scale_2"));
                };
                let (rows, half) = self.dims()?;
                self.by_blocks(Format::Nvfp4, rows, half * 2, RowScales::All(scale))
            }
            "mxfp8" if is(Dtype::F8_E4M3) => {
                let (rows, columns) = self.dims()?;
                self.by_blocks(Format::Mxfp8, rows, columns, RowScales::All(1.0))
            }
            "float8_e4m3fn" | "float8_e5m2" | "int8_tensorwise" | "nvfp4" | "mxfp8" => {
                Err(self.odd_type(format, found))
            }
            other => Err(self.invalid(format_args!(
                "is in the format {}, which is not read; use a file in float8_e4m3fn, float8_e5m2, int8_tensorwise, nvfp4, mxfp8, bf16 or f16",
                llm_dit_params::excerpt(other)
            ))),
        }
    }

    /// Columns of a group that was rotated; 0 without rotation.
    fn group(&self, about: &Value) -> Result<u16, LoadError> {
        let setting = |key: &str| about.get(key).or_else(|| about.get("params")?.get(key));
        if setting("convrot").and_then(Value::as_bool) != Some(true) {
            return Ok(0);
        }
        let group = setting("convrot_groupsize").map_or(Some(GROUP), Value::as_u64);
        // Powers of four.
        let fits = |n: &u64| {
            (4..=MOST_GROUP).contains(n)
                && n.is_power_of_two()
                && n.trailing_zeros().is_multiple_of(2)
        };
        group.filter(fits).and_then(|n| u16::try_from(n).ok()).ok_or_else(|| {
            self.invalid(format_args!(
                "has a convrot_groupsize that is no power of four from 4 to {MOST_GROUP}"
            ))
        })
    }

    fn by_rows(&self, format: Format) -> Result<Packed, LoadError> {
        let (rows, columns) = self.dims()?;
        let scale = self.needed("weight_scale")?;
        let scales = Scales { rows: self.row_scales(scale, rows)?, blocks: None };
        self.packed(format, columns, scales)
    }

    fn by_blocks(
        &self,
        format: Format,
        rows: usize,
        columns: usize,
        of_rows: RowScales,
    ) -> Result<Packed, LoadError> {
        let scale = self.needed("weight_scale")?;
        let per_row = columns / format.block().0;
        let expected = tiled_bytes(rows, per_row);
        let small =
            matches!(scale.encoding, Encoding::Plain(Dtype::U8 | Dtype::F8_E4M3 | Dtype::F8_E8M0));
        if !small || expected != Some(scale.bytes.len()) {
            return Err(self.invalid(format_args!(
                "has {} bytes of weight_scale, not those of {rows} rows of {per_row} blocks in tiles of 128 by 4",
                scale.bytes.len()
            )));
        }
        let blocks = Some(BlockScales { bytes: scale.bytes.clone(), per_row });
        self.packed(format, columns, Scales { rows: of_rows, blocks })
    }

    fn packed(&self, format: Format, columns: usize, scales: Scales) -> Result<Packed, LoadError> {
        if format.row_bytes(columns).is_none() {
            return Err(self.invalid(format_args!(
                "is {} with rows of {columns} values, which are no whole number of blocks of {}",
                format.name(),
                format.multiple()
            )));
        }
        let mut whole = self.weight.whole.clone();
        if let Some(last) = whole.last_mut() {
            *last = columns;
        }
        let scales = Some(Arc::new(scales));
        let encoding = Encoding::Packed { format, columns, scales };
        let used = BESIDE.iter().filter_map(|name| self.beside(name));
        let used = used.map(|span| Arc::clone(&span.name)).collect();
        Ok((TensorSpan { whole, encoding, ..self.weight.clone() }, used))
    }

    fn weight_type(&self) -> Option<Dtype> {
        match self.weight.encoding {
            Encoding::Plain(dtype) => Some(dtype),
            Encoding::Packed { .. } => None,
        }
    }

    fn odd_type(&self, format: &str, found: Option<Dtype>) -> LoadError {
        let found = found.map_or("another type".into(), |dtype| format!("{dtype:?}"));
        self.invalid(format_args!("is said to be {format}, but its weight is {found}"))
    }

    fn dims(&self) -> Result<(usize, usize), LoadError> {
        match self.weight.whole[..] {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(self.invalid(format_args!("has the shape {:?}", self.weight.whole))),
        }
    }

    fn needed(&self, name: &str) -> Result<&'a TensorSpan, LoadError> {
        self.beside(name).ok_or_else(|| self.invalid(format_args!("has no {name}")))
    }

    /// One scale, or one for each row.
    fn row_scales(&self, span: &TensorSpan, rows: usize) -> Result<RowScales, LoadError> {
        let count = span.whole.iter().product::<usize>();
        if count != 1 && count != rows {
            return Err(self.invalid(format_args!("has {count} scales for {rows} rows")));
        }
        let Encoding::Plain(dtype) = span.encoding else {
            return Err(self.invalid("has packed scales"));
        };
        let values: Vec<f32> = self.file.peek(span.range(), |bytes| {
            let values = |bytes: &[u8]| -> Option<Vec<f32>> {
                Some(match dtype {
                    Dtype::F32 => {
                        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
                    }
                    Dtype::BF16 => {
                        let halves = bytes.as_chunks().0.iter();
                        halves.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
                    }
                    Dtype::F16 => {
                        let halves = bytes.as_chunks().0.iter();
                        halves.map(|b| f16::from_le_bytes(*b).to_f32()).collect()
                    }
                    _ => return None,
                })
            };
            values(bytes).ok_or_else(|| {
                self.invalid(format_args!("has scales of the type {dtype:?}; F32 is expected"))
            })
        })?;
        if let Some(odd) = values.iter().find(|value| !value.is_finite()) {
            return Err(self.invalid(format_args!("has the scale {odd}")));
        }
        match values[..] {
            [one] => Ok(RowScales::All(one)),
            _ => Ok(RowScales::Each(values)),
        }
    }
}
