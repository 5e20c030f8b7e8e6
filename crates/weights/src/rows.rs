//! Rows of packed tensors, as they lie in a mapped file.

use std::sync::Arc;

use candle_core::bail;
use llm_dit_kernels::{Format, StoredRows};

use crate::{
    LoadError,
    mapped::Mapped,
    scales::{Scales, stored_row_bytes},
    source::{Encoding, TensorSpan},
};

impl Mapped {
    /// Looks at all rows of a tensor, each with its scales in it, as [`Format`] has them.
    ///
    /// # Errors
    ///
    /// As [`Mapped::read`].
    pub fn rows<T>(
        &self,
        span: &TensorSpan,
        look: impl FnOnce(&[u8]) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        let Some((format, columns)) = span.packed_format() else {
            return self.read(span.range(), look);
        };
        let Some(scales) = scales(span, format) else { return self.read(span.range(), look) };
        let first =
            (span.range().start - span.bytes.start) / stored_row_bytes(format, columns).max(1);
        let packed = self.read(span.range(), |values| {
            let blocks = scales.blocks.as_ref().map_or(0..0, |blocks| blocks.bytes.clone());
            self.peek(blocks, |blocks| Ok(scales.pack(format, columns, values, first, blocks)))
        })?;
        look(&packed)
    }
}

/// The scales that are to be put into its rows; `None` if they are as they lie in the file.
fn scales(span: &TensorSpan, format: Format) -> Option<Arc<Scales>> {
    match &span.encoding {
        Encoding::Packed { scales, .. } => scales.clone(),
        Encoding::Plain(_) => (format.header() > 0).then(|| Arc::new(Scales::none())),
    }
}

/// The rows of a tensor, read from its file when they are asked for.
#[derive(Debug)]
pub(crate) struct MappedRows {
    pub file: Arc<Mapped>,
    pub span: TensorSpan,
    pub format: Format,
    pub columns: usize,
}

impl MappedRows {
    fn row(&self, row: usize, out: &mut [f32]) -> Result<(), LoadError> {
        let Self { file, span, format, columns } = self;
        let scales = scales(span, *format);
        let row_bytes = match scales {
            Some(_) => stored_row_bytes(*format, *columns),
            None => format.row_bytes(*columns).unwrap_or_default(),
        };
        let from = span.range().start + row * row_bytes;
        file.peek(from..from + row_bytes, |values| {
            let Some(scales) = &scales else {
                format.expand(values, out);
                return Ok(());
            };
            let blocks = scales.blocks.as_ref().map_or(0..0, |blocks| blocks.bytes.clone());
            let first = (span.range().start - span.bytes.start) / row_bytes.max(1) + row;
            let packed = file
                .peek(blocks, |blocks| Ok(scales.pack(*format, *columns, values, first, blocks)))?;
            format.expand(&packed, out);
            Ok(())
        })
    }
}

impl StoredRows for MappedRows {
    fn dims(&self) -> (usize, usize) {
        (self.span.shape().iter().product::<usize>() / self.columns.max(1), self.columns)
    }

    fn read(&self, rows: &[usize]) -> candle_core::Result<Vec<f32>> {
        let (all, columns) = self.dims();
        let mut values = vec![0.0; rows.len() * columns];
        for (out, &row) in values.chunks_exact_mut(columns.max(1)).zip(rows) {
            if row >= all {
                bail!("row {row} of a table of {all}");
            }
            self.row(row, out).map_err(|error| candle_core::Error::Msg(error.to_string()))?;
        }
        Ok(values)
    }
}
