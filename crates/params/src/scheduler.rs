//! The solvers that lead from noise to a picture.

use std::{fmt, str::FromStr};

use crate::{ParamError, excerpt};

/// A sigma grid and the solver that steps along it. Each is the one of the same name in diffusers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheduler {
    #[default]
    FlowEuler,
    FlowHeun,
    DpmSolver,
    UniPc,
}

impl Scheduler {
    /// Every scheduler, the default one first.
    pub const ALL: [Self; 4] = [Self::FlowEuler, Self::FlowHeun, Self::DpmSolver, Self::UniPc];

    /// The name by which every door knows it.
    pub fn id(self) -> &'static str {
        match self {
            Self::FlowEuler => "flow_euler",
            Self::FlowHeun => "flow_heun",
            Self::DpmSolver => "dpm_solver",
            Self::UniPc => "unipc",
        }
    }

    /// One line for a person who has to choose.
    pub fn description(self) -> &'static str {
        match self {
            Self::FlowEuler => "Euler's method, first order; what Z-Image-Turbo is distilled for",
            Self::FlowHeun => "Heun's method, second order; two forward passes a step",
            Self::DpmSolver => "DPM-Solver++ 2M, second order from the step before",
            Self::UniPc => "UniPC bh2, second order with a corrector, from the steps before",
        }
    }

    /// Forward passes of the model that so many steps take.
    pub fn forwards(self, steps: u32) -> u32 {
        match self {
            Self::FlowEuler | Self::DpmSolver | Self::UniPc => steps,
            // Two a step, but the last ends at sigma 0, where a second one would tell nothing.
            Self::FlowHeun => steps.saturating_mul(2).saturating_sub(1),
        }
    }

    /// The ids of all, as a message lists them.
    pub fn list() -> String {
        Self::ALL.map(Self::id).join(", ")
    }

    /// The one that a mistyped name is most like, if it is like any.
    fn nearest(name: &str) -> Option<Self> {
        let nickname = |scheduler| match scheduler {
            Self::FlowEuler => "euler",
            Self::FlowHeun => "heun",
            Self::DpmSolver => "dpm++",
            Self::UniPc => "uni_pc",
        };
        let names = Self::ALL.into_iter().flat_map(|s| [s.id(), nickname(s)]);
        let like = crate::nearest(name, names)?;
        Self::ALL.into_iter().find(|s| s.id() == like || nickname(*s) == like)
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

/// The name of a scheduler that there is, for flags.
///
/// # Errors
/// There is none of that name.
pub fn scheduler_id(text: &str) -> Result<String, ParamError> {
    text.parse::<Scheduler>().map(|scheduler| scheduler.to_string())
}

impl FromStr for Scheduler {
    type Err = ParamError;

    fn from_str(name: &str) -> Result<Self, ParamError> {
        Self::ALL.into_iter().find(|scheduler| scheduler.id() == name).ok_or_else(|| {
            // A name may come from anywhere and be of any length.
            let shown = excerpt(name);
            ParamError::UnknownScheduler { nearest: Self::nearest(&shown), name: shown }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back() {
        for scheduler in Scheduler::ALL {
            assert_eq!(scheduler.to_string().parse(), Ok(scheduler));
            assert!(!scheduler.description().is_empty());
        }
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_and_the_list() {
        let message = |name: &str| name.parse::<Scheduler>().expect_err("unknown").to_string();
        for (name, nearest) in [
            ("euler", "flow_euler"),
            ("flow_eular", "flow_euler"),
            ("FLOW_HEUN", "flow_heun"),
            ("huen", "flow_heun"),
            ("dpmsolver", "dpm_solver"),
            ("dpm++", "dpm_solver"),
            ("uni_pc", "unipc"),
        ] {
            let message = message(name);
            assert!(message.contains(&format!("did you mean '{nearest}'?")), "{message}");
            assert!(message.contains(name) && message.contains(&Scheduler::list()), "{message}");
        }
        for name in ["", "zzz"] {
            let message = message(name);
            assert!(message.contains(&Scheduler::list()) && !message.contains("mean"), "{message}");
        }
        assert!(message(&"é".repeat(1 << 20)).len() < 300);
    }

    #[test]
    fn heun_asks_twice_but_once_at_the_end() {
        let forwards = |steps| Scheduler::ALL.map(|s| s.forwards(steps));
        assert_eq!(forwards(1), [1, 1, 1, 1]);
        assert_eq!(forwards(8), [8, 15, 8, 8]);
    }
}
