//! `llm-dit` as a person runs it: the built program, the demo model, and what it leaves behind.

mod api;
mod bench;
mod comfyui;
mod config;
mod devices;
mod docs;
mod files;
mod generate;
mod hub;
mod image;
mod input;
mod lora;
mod many;
mod memory;
mod output;
mod recipes;
mod remote;
mod secure;
mod serve;
mod support;
mod text;
mod usage;
