//! The gateway from outside: real services over fakes on port 0, and real HTTP.

mod cache;
mod generate;
mod history;
mod jobs;
mod loras;
mod memory;
mod openai;
mod openai_clients;
mod problems;
mod prompts;
mod proxies;
mod restarts;
mod routing;
mod stream;
mod support;
mod words;
