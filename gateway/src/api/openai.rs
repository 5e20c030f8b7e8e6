//! `/v1`: pictures for programs that were written for OpenAI's API.

mod answer;
mod body;
mod edits;
mod error;
mod generations;
mod models;
mod usage;

pub(crate) use self::{
    edits::{__path_edit, edit},
    error::{OpenAiProblem, OpenAiProblemBody},
    generations::{__path_generate, generate},
    models::{__path_get, __path_list, get, list},
};
