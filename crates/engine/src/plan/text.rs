//! A plan in words.

use std::fmt;

use super::types::{Course, Fixed, Form, Limit, Part, Plan, PlannedPart, Stage, Stay};

/// Bytes as messages say them. Up: what is said to suffice suffices.
pub(super) fn sized(bytes: u64) -> String {
    if bytes <= 1000 << 20 {
        return format!("{} MiB", bytes.div_ceil(1 << 20));
    }
    let tenths = bytes.saturating_mul(10).div_ceil(1 << 30);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

impl Plan {
    /// A few lines: the limit, each part, each stage.
    pub fn lines(&self) -> Vec<String> {
        let at_most = match self.limit {
            Limit::Given(bytes) => format!("at most {} (--max-vram)", sized(bytes)),
            Limit::Free(bytes) => format!("{} free", sized(bytes)),
        };
        let head = format!("memory plan for {}: {at_most}", self.device);
        let parts = self.parts.iter().map(|part| format!("  {part}, {}", self.stay(part)));
        let stages = self.stages.iter().map(|stage| {
            let how = match stage.stage {
                Stage::Denoise if self.images > 1 => {
                    format!(", up to {} images at once", self.images)
                }
                Stage::Decode if !self.whole => ", in bands".to_owned(),
                Stage::Encode | Stage::Denoise | Stage::Decode => String::new(),
            };
            let name = format!("{}:", stage.stage.name());
            format!("  {name:<13} {:>9}{how}", sized(stage.peak))
        });
        std::iter::once(head).chain(parts).chain(stages).collect()
    }

    fn stay(&self, part: &PlannedPart) -> &'static str {
        match (part.stay, part.part, self.course) {
            (_, Part::TextEncoder, Course::Command) => "loaded for the prompts",
            (Stay::Always, ..) => "stays loaded",
            (Stay::InUse, ..) => "loaded for each use",
        }
    }

    /// The flags that fix this plan.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        if self.parts.iter().any(|part| part.stay == Stay::InUse) {
            flags.push("--cpu-offload".to_owned());
        }
        if self.parts.iter().any(|part| part.form == Form::Packed) {
            flags.push("--weights packed".to_owned());
        }
        if self.stages.iter().any(|stage| stage.stage == Stage::Denoise) {
            flags.push(format!("--max-batch {}", self.batch));
        }
        flags
    }
}

impl Fixed {
    /// The flags as they were given.
    pub fn flags(&self) -> Vec<String> {
        let offload = self.offload.map(|offload| match offload {
            true => "--cpu-offload".to_owned(),
            false => "--cpu-offload=false".to_owned(),
        });
        let form = self.form.map(|form| format!("--weights {form}"));
        let batch = self.batch.map(|batch| format!("--max-batch {batch}"));
        [offload, form, batch].into_iter().flatten().collect()
    }
}

impl fmt::Display for PlannedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<13} {:>9}", self.part.to_string(), sized(self.bytes))?;
        if self.has_forms {
            write!(f, ", {}", self.form)?;
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TextEncoder => "text encoder",
            Self::Transformer => "transformer",
            Self::Vae => "VAE",
        })
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packed => "packed",
            Self::Expanded => "expanded",
        })
    }
}
