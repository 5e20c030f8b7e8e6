//! Sizes on the command line.

/// The text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give a size in bytes, or with K, M, G or T for 2^10, 2^20, 2^30 or 2^40 bytes")]
pub struct SizeError;

/// The bytes that a text such as `900M` or `24G` stands for.
///
/// # Errors
///
/// [`SizeError`] if the text is no whole number with or without a unit.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((end, 'K' | 'k')) => (&text[..end], 10),
        Some((end, 'M' | 'm')) => (&text[..end], 20),
        Some((end, 'G' | 'g')) => (&text[..end], 30),
        Some((end, 'T' | 't')) => (&text[..end], 40),
        _ => (text, 0),
    };
    let count: u64 = digits.parse().map_err(|_| SizeError)?;
    count.checked_mul(1 << shift).ok_or(SizeError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("24G"), Ok(24 << 30));
        assert_eq!(parse_size("900m"), Ok(900 << 20));
        assert_eq!(parse_size("7"), Ok(7));
        for wrong in ["", "G", "1.5G", "-1", "24GB", "99999999999T", "é"] {
            assert_eq!(parse_size(wrong), Err(SizeError), "{wrong}");
        }
    }
}
