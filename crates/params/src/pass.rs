//! The passes of classifier-free guidance that a LoRA is in.

use std::{fmt, str::FromStr};

use crate::{ParamError, excerpt};

/// Which of a step's two forward passes a LoRA changes. Without guidance there is one, which has all
/// LoRAs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LoraPass {
    /// That of the prompt and that of the negative prompt.
    #[default]
    Both,
    /// That of the prompt only.
    Positive,
}

impl LoraPass {
    /// All of them, the default first.
    pub const ALL: [Self; 2] = [Self::Both, Self::Positive];

    /// The name by which every door knows it.
    pub fn id(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Positive => "positive",
        }
    }

    /// As bodies and messages hold it: the default is left out.
    pub fn written(self) -> Option<String> {
        (self != Self::default()).then(|| self.id().to_owned())
    }
}

impl fmt::Display for LoraPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

impl FromStr for LoraPass {
    type Err = ParamError;

    fn from_str(name: &str) -> Result<Self, ParamError> {
        Self::ALL.into_iter().find(|pass| pass.id() == name).ok_or_else(|| {
            let why = format!(
                "'{}' is no pass that a LoRA can be in; use both or positive",
                excerpt(name)
            );
            ParamError::Invalid { name: "loras", why }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_known_by_name_and_nothing_else_is() {
        for pass in LoraPass::ALL {
            assert_eq!(pass.to_string().parse(), Ok(pass));
        }
        assert_eq!(LoraPass::Both.written(), None);
        assert_eq!(LoraPass::Positive.written().as_deref(), Some("positive"));
        for name in ["", "negative", "Positive", "both,positive"] {
            let error = name.parse::<LoraPass>().expect_err(name).to_string();
            assert!(error.contains(&format!("'{name}'")) && error.contains("positive"), "{error}");
        }
    }
}
