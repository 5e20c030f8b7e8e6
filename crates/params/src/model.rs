//! The name of a model in a request.

use crate::{ParamError, excerpt};

/// The model that a request means: the one it names, else `default`. `others` are what a service has
/// beside that. The only place where names of models are compared.
///
/// # Errors
/// When there is no model of this name.
pub fn choose_model<'a>(
    wanted: Option<&str>,
    default: &'a str,
    others: &[&'a str],
) -> Result<&'a str, ParamError> {
    let Some(wanted) = wanted else { return Ok(default) };
    let names = || std::iter::once(default).chain(others.iter().copied());
    names().find(|name| *name == wanted).ok_or_else(|| ParamError::UnknownModel {
        name: excerpt(wanted),
        known: names().collect::<Vec<_>>().join("' or '"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_is_refused_with_those_that_are_there() {
        assert_eq!(choose_model(None, "a", &["b"]), Ok("a"));
        assert_eq!(choose_model(Some("b"), "a", &["b"]), Ok("b"));
        let message = choose_model(Some("c"), "a", &["b"]).expect_err("unknown").to_string();
        assert_eq!(message, "unknown model 'c'; omit it, or use 'a' or 'b'");
        let long = choose_model(Some(&"é".repeat(1 << 20)), "a", &[]).expect_err("unknown");
        assert!(long.to_string().len() < 300);
    }
}
