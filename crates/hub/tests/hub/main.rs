//! Downloads from a hub of ours that breaks in the ways that networks and hubs do.

mod access;
mod broken;
mod support;
mod whole;
