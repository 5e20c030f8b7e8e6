//! The only access to the `gemm` crate's raw-pointer interface, with its bounds checked.

use std::ops::Range;

use gemm::Parallelism;

/// A matrix inside a slice. Rows may overlap, as they do when a convolution reads its windows.
#[derive(Clone, Copy)]
pub(crate) struct MatRef<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A row-major destination inside a slice.
pub(crate) struct MatMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatRef<'a> {
    /// Rows of `cols` adjacent values, `row_stride` apart.
    pub(crate) fn row_major(
        values: &'a [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Self {
        Self::strided(values, rows, cols, row_stride, 1)
    }

    /// The transpose of a row-major matrix of `cols` rows.
    pub(crate) fn transposed(
        values: &'a [f32],
        rows: usize,
        cols: usize,
        col_stride: usize,
    ) -> Self {
        Self::strided(values, rows, cols, 1, col_stride)
    }

    fn strided(
        values: &'a [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Self {
        assert!(rows > 0 && cols > 0, "empty matrix");
        let last = (rows - 1) * row_stride + (cols - 1) * col_stride;
        assert!(last < values.len(), "matrix reaches past its slice");
        Self { values, rows, cols, row_stride, col_stride }
    }
}

impl<'a> MatMut<'a> {
    pub(crate) fn row_major(
        values: &'a mut [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Self {
        assert!(rows > 0 && cols > 0, "empty matrix");
        assert!(cols <= row_stride || rows == 1, "destination rows overlap");
        assert!((rows - 1) * row_stride + cols <= values.len(), "matrix reaches past its slice");
        Self { values, rows, cols, row_stride }
    }
}

/// `dst = a * b`, or `dst += a * b`, on the calling thread.
pub(crate) fn multiply(dst: MatMut<'_>, a: MatRef<'_>, b: MatRef<'_>, accumulate: bool) {
    run(dst, a, b, accumulate, Parallelism::None);
}

/// `dst = a * b` on all threads.
pub(crate) fn multiply_parallel(dst: MatMut<'_>, a: MatRef<'_>, b: MatRef<'_>) {
    run(dst, a, b, false, Parallelism::Rayon(0));
}

#[expect(
    unsafe_code,
    reason = "gemm takes raw pointers; MatRef and MatMut have checked the bounds"
)]
fn run(dst: MatMut<'_>, a: MatRef<'_>, b: MatRef<'_>, accumulate: bool, parallelism: Parallelism) {
    assert!(dst.rows == a.rows && dst.cols == b.cols && a.cols == b.rows, "shapes do not multiply");
    // SAFETY: every element named by rows, cols and strides lies inside its slice, as the
    // constructors asserted; `dst` is borrowed mutably and so aliases neither input.
    unsafe {
        gemm::gemm(
            dst.rows,
            dst.cols,
            a.cols,
            dst.values.as_mut_ptr(),
            1,
            dst.row_stride as isize,
            accumulate,
            a.values.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Splits `total` into ranges of at most `size`.
pub(crate) fn blocks(total: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..total.div_ceil(size)).map(move |i| i * size..((i + 1) * size).min(total))
}
