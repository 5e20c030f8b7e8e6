//! Settings that other programs write into their images, as far as they mean something here.
//!
//! Automatic1111 and those that follow it write [`words`], ComfyUI its [`graph`] of nodes.

mod graph;
mod words;

use llm_dit_params::Scheduler;

use crate::Recipe;

/// What was understood of another program's settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Foreign {
    pub recipe: Recipe,
    /// Name and value of what has no counterpart here and changes the image.
    pub left_out: Vec<String>,
}

/// Which program's way of writing settings it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    Ours,
    Automatic1111,
    ComfyUi,
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ours => "llm-dit",
            Self::Automatic1111 => "Automatic1111",
            Self::ComfyUi => "ComfyUI",
        })
    }
}

/// What Automatic1111 and ComfyUI call a scheduler.
fn their_names(scheduler: Scheduler) -> [&'static str; 2] {
    match scheduler {
        Scheduler::FlowEuler => ["Euler", "euler"],
        Scheduler::FlowHeun => ["Heun", "heun"],
        Scheduler::DpmSolver => ["DPM++ 2M", "dpmpp_2m"],
        Scheduler::UniPc => ["UniPC", "uni_pc"],
    }
}

/// What Automatic1111 calls a scheduler of ours.
pub(crate) fn sampler_name(scheduler: &str) -> String {
    let known = scheduler.parse().map(|scheduler| their_names(scheduler)[0]);
    known.unwrap_or(scheduler).to_owned()
}

/// Settings as Automatic1111 writes them; `None` if the text has none.
pub(crate) fn of_words(text: &str) -> Option<Foreign> {
    words::read(text)
}

/// Settings from ComfyUI's graph; `None` if the text is none, or nothing in it makes an image.
pub(crate) fn of_graph(json: &str) -> Option<Foreign> {
    graph::read(json)
}

/// The scheduler of ours with one of these names.
fn scheduler(name: &str) -> Option<Scheduler> {
    let is = |theirs: &str| name.eq_ignore_ascii_case(theirs);
    Scheduler::ALL.into_iter().find(|ours| is(ours.id()) || their_names(*ours).into_iter().any(is))
}

impl Foreign {
    fn leave_out(&mut self, name: &str, value: &str) {
        self.left_out.push(format!("{name}: {value}"));
    }

    /// Other programs count guidance from 1, where 1 is without.
    fn set_guidance(&mut self, cfg: f64) {
        if cfg.is_finite() && cfg >= 1.0 {
            self.recipe.settings.guidance_scale = Some((cfg - 1.0) as f32);
        } else {
            self.leave_out("CFG scale", &cfg.to_string());
        }
    }

    fn set_sampler(&mut self, name: &str) {
        match scheduler(name) {
            Some(ours) => self.recipe.settings.scheduler = Some(ours.to_string()),
            None => self.leave_out("Sampler", name),
        }
    }
}
