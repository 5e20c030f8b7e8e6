//! What the tests of the models share: goldens of the oracle, the demo model, and files in the forms
//! that people have.

pub mod demo;
pub mod forms;
pub mod goldens;
pub mod packed;
pub mod true_shapes;
