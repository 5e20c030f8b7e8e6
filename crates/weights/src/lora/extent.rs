//! Which matrices a change fits.

use std::fmt;

/// Which matrices a module's change fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Those of these rows and columns.
    Matrix([usize; 2]),
    Rows(usize),
    Columns(usize),
    /// Those with a multiple of so many columns.
    ColumnsBy(usize),
}

impl Extent {
    /// Whether a matrix `(outs, ins)` can be changed.
    pub fn fits(self, [outs, ins]: [usize; 2]) -> bool {
        match self {
            Self::Matrix(dims) => dims == [outs, ins],
            Self::Rows(rows) => rows == outs,
            Self::Columns(columns) => columns == ins,
            Self::ColumnsBy(side) => side > 0 && ins.is_multiple_of(side),
        }
    }
}

/// What messages call such a matrix.
impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matrix(dims) => write!(f, "{dims:?}"),
            Self::Rows(rows) => write!(f, "{rows} rows"),
            Self::Columns(columns) => write!(f, "{columns} columns"),
            Self::ColumnsBy(side) => write!(f, "a multiple of {side} columns"),
        }
    }
}
