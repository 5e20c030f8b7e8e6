//! Finds the name that a misspelled word probably means.

/// The likeness below which a guess would only confuse.
const LIKENESS: f64 = 0.8;

/// The known word that is most like the unknown one, if any is like it.
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    known
        .into_iter()
        .map(|word| (strsim::jaro_winkler(&unknown, word), word))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .filter(|(likeness, _)| *likeness > LIKENESS)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_words_are_found_and_others_are_not() {
        let known = ["width", "height", "steps"];
        assert_eq!(nearest("widht", known), Some("width"));
        assert_eq!(nearest("STEP", known), Some("steps"));
        assert_eq!(nearest("seed", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("width", []), None);
    }
}
