//! ggml's types by their numbers.

use llm_dit_kernels::Format;
use safetensors::Dtype;

/// Name of the type with this number, and how it is read if it is.
pub(super) fn find(id: u32) -> (String, Option<Format>) {
    let read = READ.iter().find(|(known, _)| *known == id);
    if let Some((_, format)) = read {
        return (format.name().to_owned(), Some(*format));
    }
    let name = OTHERS.iter().find(|(known, _)| *known == id).map(|(_, name)| *name);
    (name.map_or_else(|| format!("number {id}"), str::to_owned), None)
}

/// The type of safetensors with the same bytes.
pub(super) fn plain(format: Format) -> Option<Dtype> {
    match format {
        Format::F32 => Some(Dtype::F32),
        Format::F16 => Some(Dtype::F16),
        Format::Bf16 => Some(Dtype::BF16),
        _ => None,
    }
}

const READ: [(u32, Format); 15] = [
    (0, Format::F32),
    (1, Format::F16),
    (2, Format::Q4_0),
    (3, Format::Q4_1),
    (6, Format::Q5_0),
    (7, Format::Q5_1),
    (8, Format::Q8_0),
    (10, Format::Q2K),
    (11, Format::Q3K),
    (12, Format::Q4K),
    (13, Format::Q5K),
    (14, Format::Q6K),
    (20, Format::Iq4Nl),
    (23, Format::Iq4Xs),
    (30, Format::Bf16),
];

const OTHERS: [(u32, &str); 21] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];
