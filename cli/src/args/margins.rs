//! The sides of `--outpaint`.

use std::{fmt, str::FromStr};

/// Most pixels on one side.
const MAX_MARGIN: u32 = 4096;

/// Pixels that are added on each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Margins {
    pub left: u32,
    pub right: u32,
    pub top: u32,
    pub bottom: u32,
}

impl FromStr for Margins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FIX: &str = "write it as left=64,right=64,top=0,bottom=32";
        let mut margins = Self::default();
        let mut seen = Vec::new();
        for part in text.split(',') {
            let (side, pixels) = part.trim().split_once('=').ok_or_else(|| FIX.to_owned())?;
            let margin = match side {
                "left" => &mut margins.left,
                "right" => &mut margins.right,
                "top" => &mut margins.top,
                "bottom" => &mut margins.bottom,
                _ => return Err(format!("unknown side '{side}'; {FIX}")),
            };
            if seen.contains(&side) {
                return Err(format!("{side} comes twice; {FIX}"));
            }
            seen.push(side);
            *margin =
                pixels.parse().ok().filter(|pixels| *pixels <= MAX_MARGIN).ok_or_else(|| {
                    format!("{side}={pixels} is out of range; use 0 to {MAX_MARGIN}")
                })?;
        }
        if margins == Self::default() {
            return Err(format!("it adds nothing; {FIX}"));
        }
        Ok(margins)
    }
}

impl fmt::Display for Margins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { left, right, top, bottom } = self;
        write!(f, "left={left},right={right},top={top},bottom={bottom}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read_and_mistakes_named() {
        let margins: Margins = "left=64, bottom=32".parse().expect("two sides");
        assert_eq!(margins, Margins { left: 64, bottom: 32, ..Default::default() });
        assert_eq!(margins.to_string().parse(), Ok(margins));
        for (text, words) in [
            ("", "write it as"),
            ("64", "write it as"),
            ("up=3", "unknown side 'up'"),
            ("left=1,left=2", "left comes twice"),
            ("left=-1", "out of range"),
            ("left=5000", "use 0 to 4096"),
            ("left=0", "adds nothing"),
        ] {
            let error = text.parse::<Margins>().expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
