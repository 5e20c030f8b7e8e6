//! Text of a client as a message repeats it.

/// Characters that a message repeats.
const SHOWN_CHARS: usize = 80;

/// The beginning of a text of any length, with an ellipsis where it was cut.
pub fn excerpt(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(excerpt("ink"), "ink");
        assert_eq!(excerpt(&"é".repeat(80)), "é".repeat(80));
        assert_eq!(excerpt(&"é".repeat(70_000)), format!("{}\u{2026}", "é".repeat(80)));
    }
}
