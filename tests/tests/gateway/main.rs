//! The gateway from outside: real services over fakes on port 0, and real HTTP.

mod generate;
mod problems;
mod support;
