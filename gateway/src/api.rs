//! The endpoints.

pub(crate) mod access;
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod encode;
pub(crate) mod generate;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod jobs;
pub(crate) mod lists;
pub(crate) mod loras;
pub(crate) mod metrics;
pub(crate) mod openai;
pub(crate) mod page;
pub(crate) mod problem;
pub(crate) mod refusals;
pub(crate) mod session;

use std::sync::Arc;

use axum::extract::State;

use crate::state::AppState;

/// What every endpoint gets.
pub(crate) type Shared = State<Arc<AppState>>;
