//! Parameters with two names.

/// Explains serde's "duplicate field" where the second one was written under another name; `None`
/// if the message is about something else.
pub fn same_parameter(message: &str) -> Option<String> {
    let (name, rest) = message.strip_prefix("duplicate field `")?.split_once('`')?;
    Some(match name {
        "steps" => format!(
            "steps and num_inference_steps are the same parameter, which is set twice{rest}; remove one"
        ),
        name => format!("{name} is set twice{rest}; remove one"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_named() {
        let said = same_parameter("duplicate field `steps` at line 1 column 9").expect("explained");
        assert!(said.starts_with("steps and num_inference_steps are the same parameter"), "{said}");
        assert!(said.contains("at line 1 column 9"), "{said}");
        let said = same_parameter("duplicate field `seed`").expect("explained");
        assert_eq!(said, "seed is set twice; remove one");
        assert_eq!(same_parameter("missing field `seed`"), None);
    }
}
