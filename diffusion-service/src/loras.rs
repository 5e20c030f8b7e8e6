//! LoRAs as callers name them: flags, and the folder that they may choose from.

mod args;
mod folder;

pub use self::{
    args::{LoraArg, LoraArgs, LoraArgsError},
    folder::{LorasFolder, LorasFolderError},
};
