//! What the tests share: goldens of the oracle, and engines that do as they are told.

pub mod goldens;
