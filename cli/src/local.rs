//! Everything that computes in this process, under the names that the rest of the command uses. A
//! build without the feature `local` has `absent.rs` in its place, and nothing else differs.

pub use diffusion_service::BatchArgs;
pub use gateway::{AccessArgs, JobArgs, OpenAiArgs};

pub use crate::{
    args::model::{ModelArgs, load_encoder, model_folder},
    bench::{BenchArgs, bench},
    doctor::{DoctorArgs, doctor},
    generate::local::open,
    serve::{ServeArgs, serve},
};
