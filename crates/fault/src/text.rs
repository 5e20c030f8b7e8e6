//! Texts of errors, cut to what a header can carry.

/// Bytes of an error's text as it stands in `grpc-message`, where it is percent-encoded. A peer
/// closes the connection, with all calls on it, over headers that it finds far too long.
pub const MAX_TEXT_BYTES: usize = 2 * 1024;

const ELLIPSIS: char = '\u{2026}';

/// The text, or its beginning and an ellipsis if it is longer than [`MAX_TEXT_BYTES`] once it is
/// percent-encoded.
pub fn bounded(mut text: String) -> String {
    let room = MAX_TEXT_BYTES - encoded(ELLIPSIS);
    let (mut bytes, mut fits) = (0, 0);
    for (at, char) in text.char_indices() {
        bytes += encoded(char);
        if bytes <= room {
            fits = at + char.len_utf8();
        }
        if bytes > MAX_TEXT_BYTES {
            text.truncate(fits);
            text.push(ELLIPSIS);
            return text;
        }
    }
    text
}

/// Bytes of a character once it is percent-encoded, or more.
fn encoded(char: char) -> usize {
    let as_it_is = char.is_ascii_alphanumeric() || "-_.,:;/'()=+@!".contains(char);
    if as_it_is { 1 } else { 3 * char.len_utf8() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_to_their_encoded_length() {
        for text in ["a", "é", "\u{1f98a}", " ", "%", "a b\r\né"] {
            let long = bounded(text.repeat(70_000 / text.len()));
            let bytes: usize = long.chars().map(encoded).sum();
            assert!(bytes <= MAX_TEXT_BYTES && bytes > MAX_TEXT_BYTES - 50, "{bytes}: {long}");
            assert!(long.ends_with(ELLIPSIS) && long.starts_with(text), "{long}");
            assert_eq!(bounded(long.clone()), long, "once cut, it stays");
        }
        let exact = "a".repeat(MAX_TEXT_BYTES);
        assert_eq!(bounded(exact.clone()), exact);
        assert_eq!(bounded(String::new()), "");
    }
}
