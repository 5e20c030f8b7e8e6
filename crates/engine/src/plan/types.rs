//! What is planned, and the plan, as data.

/// What a process takes of a GPU beside tensors: its context, and workspaces of libraries.
pub const GPU_OVERHEAD: u64 = 1 << 29;

/// A part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    TextEncoder,
    Transformer,
    Vae,
}

/// How weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are stored; each matrix is expanded for its products.
    Packed,
    /// As they are computed with.
    Expanded,
}

/// How long weights are on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    Always,
    /// Loaded for each use.
    InUse,
}

/// Bytes of a part's weights in each form; the same twice where there is one form only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSize {
    pub part: Part,
    pub packed: u64,
    pub expanded: u64,
}

/// Bytes of activations, for the largest request that is planned for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Of a prompt.
    pub encode: u64,
    /// For each image of a batch.
    pub denoise: u64,
    /// What an image counts for in `--max-batch`: more than 1 if it is large or guided.
    pub units: usize,
    /// Of an image, whole.
    pub decode: u64,
    /// Of an image, with as little at a time as is possible.
    pub decode_least: u64,
}

/// How parts follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// A service: each part may be needed at any time.
    Service,
    /// A command: prompts are encoded first, and the text encoder is not needed afterwards.
    Command,
}

/// What the user fixed; `None` leaves it to the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// `--cpu-offload`.
    pub offload: Option<bool>,
    /// `--weights`.
    pub form: Option<Form>,
    /// `--max-batch`.
    pub batch: Option<usize>,
}

/// Where a limit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `--max-vram SIZE`, in bytes.
    Given(u64),
    /// Bytes that are free on the device.
    Free(u64),
}

/// What is planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// As messages call it, such as "cuda:0".
    pub device: String,
    pub limit: Limit,
    /// Bytes that are taken whatever is computed.
    pub overhead: u64,
    /// The parts on this device.
    pub parts: Vec<PartSize>,
    pub work: Work,
    pub course: Course,
    /// The most images that are asked for at once.
    pub images: usize,
    pub fixed: Fixed,
}

/// A part in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedPart {
    pub part: Part,
    pub bytes: u64,
    pub form: Form,
    /// Whether the other form is another size.
    pub has_forms: bool,
    pub stay: Stay,
}

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Encode,
    Denoise,
    Decode,
}

/// What is on the device during a stage, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagePeak {
    pub stage: Stage,
    pub weights: u64,
    pub work: u64,
    /// With the overhead.
    pub peak: u64,
}

/// How a model uses a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub device: String,
    pub limit: Limit,
    pub overhead: u64,
    pub course: Course,
    pub parts: Vec<PlannedPart>,
    /// `--max-batch`.
    pub batch: usize,
    /// Images of the planned size that are computed together at most.
    pub images: usize,
    /// Bytes that the decoder may take; less than the whole image needs if it is not [`Self::whole`].
    pub decode: u64,
    /// Whether images of the planned size are decoded whole.
    pub whole: bool,
    pub stages: Vec<StagePeak>,
}

impl Limit {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Given(bytes) | Self::Free(bytes) => bytes,
        }
    }
}

impl Plan {
    /// The most that any stage takes.
    pub fn peak(&self) -> u64 {
        self.stages.iter().map(|stage| stage.peak).max().unwrap_or(self.overhead)
    }

    /// A part's place in the plan.
    pub fn part(&self, part: Part) -> Option<&PlannedPart> {
        self.parts.iter().find(|planned| planned.part == part)
    }

    /// Whether some parts are not always loaded, so that no two of them may compute at a time.
    pub fn takes_turns(&self) -> bool {
        self.parts.iter().any(|part| part.stay == Stay::InUse)
    }

    /// Bytes that are taken while an image is denoised or decoded, by what has no part in that: the
    /// overhead, and the text encoder of a service, if it stays.
    pub fn others(&self) -> u64 {
        let stays =
            |part: &&PlannedPart| part.stay == Stay::Always && self.course == Course::Service;
        let encoder = self.part(Part::TextEncoder).filter(stays);
        self.overhead + encoder.map_or(0, |part| part.bytes)
    }
}

impl Stage {
    /// What computes.
    pub fn part(self) -> Part {
        match self {
            Self::Encode => Part::TextEncoder,
            Self::Denoise => Part::Transformer,
            Self::Decode => Part::Vae,
        }
    }

    /// As metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
        }
    }
}
