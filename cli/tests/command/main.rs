//! `llm-dit` as a person runs it: the built program, the demo model, and what it leaves behind.

mod files;
mod generate;
mod serve;
mod support;
mod usage;
