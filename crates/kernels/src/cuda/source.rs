//! The kernels' sources, as NVRTC gets them. Text only, so that a machine without CUDA can write
//! them out and have them compiled.

use llm_dit_device::Capability;

use crate::{Format, cuda_choice::Kernels};

/// A translation unit: a file of kernels with its compile-time choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Norms over rows of up to `128 * 8 * vectors` columns.
    Rows {
        vectors: u32,
    },
    /// Norm and rotation of heads `head` wide.
    Heads {
        head: u32,
        halves: bool,
    },
    /// Activations and softmax.
    Pointwise,
    GroupNorm,
    /// Packed weights of one format, to bf16 or to f16.
    Expand {
        format: Format,
        half: bool,
    },
    /// What products of f16 need besides cuBLAS.
    Half,
    /// Attention without cuDNN, `keys` at a time.
    Attention {
        head: u32,
        causal: bool,
        keys: u32,
    },
    /// Convolutions on the tensor cores of any GPU since Ampere.
    Conv(ConvTiling),
    /// Products on Hopper's tensor cores.
    Matmul(Tiling),
}

/// How a product is cut up; see `matmul.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiling {
    /// Columns of a tile.
    pub columns: u32,
    /// Whether neighbouring blocks share A (else B).
    pub share_a: bool,
    pub kind: Kind,
}

/// What a product is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Plain,
    /// `silu(gate) * up` of columns that come as eight gates, eight ups, and so on.
    Gated,
    /// A's rows are pixels, gathered tap by tap.
    Conv,
}

/// How a convolution is cut up, and what is folded into it; see `conv.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvTiling {
    /// Channels of a block: 32, 64 or 128.
    pub columns: u32,
    /// Taps in a row of them.
    pub side: u32,
    pub stride: u32,
    /// Whether the input is normed and activated.
    pub norm: bool,
    /// Whether the input is doubled; a side has two taps then.
    pub doubled: bool,
    pub stages: u32,
}

/// Shared memory of a Hopper block, less what aligning and barriers take.
const SHARED: u32 = 232_448 - 1024 - 256;

impl Tiling {
    /// Rows of a tile.
    pub const ROWS: u32 = 128;
    /// What is multiplied at a time.
    pub const DEPTH: u32 = 64;

    /// Columns of the result's tile.
    pub fn out_columns(self) -> u32 {
        if self.kind == Kind::Gated { self.columns / 2 } else { self.columns }
    }

    fn stage_bytes(self) -> u32 {
        (Self::ROWS + self.columns) * Self::DEPTH * 2
    }

    fn out_bytes(self) -> u32 {
        Self::ROWS * self.out_columns() * 2
    }

    /// As many as fit; more than six hide nothing further.
    pub fn stages(self) -> u32 {
        ((SHARED - self.out_bytes()) / self.stage_bytes()).min(6)
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(self) -> u32 {
        self.stages() * self.stage_bytes() + self.out_bytes() + 1024 + 256
    }
}

impl ConvTiling {
    /// Output pixels of a block in each direction.
    pub const PIXELS: (usize, usize) = (16, 8);
    /// Channels that are multiplied at a time.
    pub const CHUNK: u32 = 32;
    pub const THREADS: u32 = 128;

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(self) -> u32 {
        let [x, y] = [16, 8].map(|pixels| (pixels - 1) * self.stride + self.side);
        let patches = if self.side == 1 { self.stages } else { 2 };
        let rings = (patches * x * y + self.stages * self.columns) * Self::CHUNK * 2;
        // Results of four warps, each with a spare vector in a row.
        let (warps_m, warps_n) = if self.columns >= 64 { (2, 2) } else { (4, 1) };
        let out = 4 * (128 / warps_m) * (self.columns / warps_n * 2 + 16);
        rings.max(out)
    }
}

impl Source {
    /// Queries of a block in `attention.cu`.
    pub const ATTENTION_QUERIES: usize = 128;

    /// Threads of a block in `rows.cu`, each holding eight columns a vector.
    pub const ROW_THREADS: u32 = 128;

    /// The whole text.
    pub fn text(self) -> String {
        let (definitions, body) = match self {
            Self::Rows { vectors } => {
                (format!("#define VECTORS {vectors}\n"), include_str!("rows.cu"))
            }
            Self::Heads { head, halves } => (
                format!("#define HEAD {head}\n#define HALVES {}\n", u32::from(halves)),
                include_str!("heads.cu"),
            ),
            Self::Pointwise => (String::new(), include_str!("pointwise.cu")),
            Self::GroupNorm => (String::new(), include_str!("group_norm.cu")),
            Self::Expand { format, half: _ } => {
                (expand_definitions(format), include_str!("expand.cu"))
            }
            Self::Half => (String::new(), include_str!("half.cu")),
            Self::Attention { head, causal, keys } => (
                format!(
                    "#define HEAD {head}\n#define CAUSAL {}\n#define KEYS {keys}\n",
                    u32::from(causal)
                ),
                include_str!("attention.cu"),
            ),
            Self::Conv(tiling) => (
                format!(
                    "#define BN {}\n#define SIDE {}\n#define STRIDE {}\n#define NORM {}\n\
                     #define DOUBLED {}\n#define STAGES {}\n",
                    tiling.columns,
                    tiling.side,
                    tiling.stride,
                    u32::from(tiling.norm),
                    u32::from(tiling.doubled),
                    tiling.stages,
                ),
                include_str!("conv.cu"),
            ),
            Self::Matmul(tiling) => (
                format!(
                    "#define BN {}\n#define STAGES {}\n#define SHARE_A {}\n#define CONV {}\n\
                     #define GATED {}\n",
                    tiling.columns,
                    tiling.stages(),
                    u32::from(tiling.share_a),
                    u32::from(tiling.kind == Kind::Conv),
                    u32::from(tiling.kind == Kind::Gated),
                ),
                include_str!("matmul.cu"),
            ),
        };
        let product = match self {
            Self::Matmul(tiling) => wgmma(tiling.columns),
            Self::Conv(_) | Self::Attention { .. } => include_str!("mma.cuh").to_owned(),
            _ => String::new(),
        };
        let to_half = matches!(self, Self::Half | Self::Expand { half: true, .. });
        let common = include_str!("common.cuh");
        format!("#define PACK_F16 {}\n{common}\n{definitions}{product}{body}", u32::from(to_half))
    }

    /// Dynamic shared memory of an attention block: its queries and a tile of keys and of values.
    /// Rows that are no whole lines have a spare vector.
    pub fn attention_bytes(head: u32, keys: u32) -> u32 {
        let row = if head.is_multiple_of(64) { head } else { head + 8 };
        (Self::ATTENTION_QUERIES as u32 + 2 * keys) * row * 2
    }

    /// True for what only compute capability 9.0 runs.
    pub fn needs_hopper(self) -> bool {
        matches!(self, Self::Matmul(_))
    }

    /// What NVRTC is to compile for. Hopper's own instructions need the `a`.
    pub fn architecture(self, Capability { major, minor }: Capability) -> String {
        let suffix = if self.needs_hopper() { "a" } else { "" };
        format!("sm_{major}{minor}{suffix}")
    }

    /// One of everything that a GPU of this capability is asked for with the models' shapes, to be
    /// compiled as a check.
    pub fn all(capability: Capability) -> Vec<Self> {
        let Some(kernels) = Kernels::of(capability) else { return Vec::new() };
        let mut all = vec![Self::Half];
        let expand = |half| {
            let formats = Format::GGML.into_iter().chain(Format::SCALED);
            formats.map(move |format| Self::Expand { format, half })
        };
        all.extend(expand(true));
        if !kernels.bf16 {
            return all;
        }
        all.extend(expand(false));
        all.extend([Self::Pointwise, Self::GroupNorm]);
        all.extend([1, 2, 4, 8].map(|vectors| Self::Rows { vectors }));
        let keys = kernels.attention_keys;
        for head in [32, 64, 128] {
            all.extend([false, true].map(|halves| Self::Heads { head, halves }));
            all.extend([false, true].map(|causal| Self::Attention { head, causal, keys }));
        }
        for columns in [32, 64, 128] {
            for (side, stride, norm, doubled) in [
                (3, 1, false, false),
                (3, 1, true, false),
                (3, 2, false, false),
                (2, 1, false, true),
                (1, 1, false, false),
            ] {
                let stages = kernels.conv_stages;
                all.push(Self::Conv(ConvTiling { columns, side, stride, norm, doubled, stages }));
            }
        }
        if !kernels.hopper {
            return all;
        }
        for share_a in [false, true] {
            for (kind, columns) in [
                (Kind::Plain, &[64, 128, 192, 256][..]),
                (Kind::Gated, &[128, 256]),
                (Kind::Conv, &[64, 128, 192, 256]),
            ] {
                let tiling = |&columns| Self::Matmul(Tiling { columns, share_a, kind });
                all.extend(columns.iter().map(tiling));
            }
        }
        all
    }
}

/// Numbers of the formats, and which of them is meant.
fn expand_definitions(format: Format) -> String {
    const NAMES: [(&str, Format); 20] = [
        ("F32", Format::F32),
        ("F16", Format::F16),
        ("BF16", Format::Bf16),
        ("Q4_0", Format::Q4_0),
        ("Q4_1", Format::Q4_1),
        ("Q5_0", Format::Q5_0),
        ("Q5_1", Format::Q5_1),
        ("Q8_0", Format::Q8_0),
        ("Q2_K", Format::Q2K),
        ("Q3_K", Format::Q3K),
        ("Q4_K", Format::Q4K),
        ("Q5_K", Format::Q5K),
        ("Q6_K", Format::Q6K),
        ("IQ4_NL", Format::Iq4Nl),
        ("IQ4_XS", Format::Iq4Xs),
        ("E4M3", Format::E4m3),
        ("E5M2", Format::E5m2),
        ("INT8", Format::Int8 { group: 0 }),
        ("NVFP4", Format::Nvfp4),
        ("MXFP8", Format::Mxfp8),
    ];
    let (group, plain) = match format {
        Format::Int8 { group } => (group, Format::Int8 { group: 0 }),
        other => (0, other),
    };
    let mut text = String::new();
    for (number, (name, known)) in NAMES.iter().enumerate() {
        text += &format!("#define F_{name} {number}\n");
        if *known == plain {
            text += &format!("#define FORMAT {number}\n");
        }
    }
    // Groups are powers of four.
    text + &format!("#define GROUP {group}\n#define ROOT {:?}f\n", f32::from(group).sqrt())
}

/// The instruction that multiplies 64 rows by `columns` columns; its operands are too many to write
/// out by hand.
fn wgmma(columns: u32) -> String {
    let sums = columns / 2;
    let list = |item: &dyn Fn(u32) -> String| (0..sums).map(item).collect::<Vec<_>>().join(", ");
    format!(
        "__device__ __forceinline__ void wgmma(float (&sums)[{sums}], u64 a, u64 b, int add) {{\n\
         asm volatile(\"{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{}, 0;\\n\
         wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 {{{}}}, %{}, %{}, p, 1, 1, 0, 0;\\n}}\"\n\
         : {} : \"l\"(a), \"l\"(b), \"r\"(add));\n}}\n",
        sums + 2,
        list(&|i| format!("%{i}")),
        sums,
        sums + 1,
        list(&|i| format!("\"+f\"(sums[{i}])")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_the_memory_of_a_block() {
        // NVIDIA's table of compute capabilities: bytes that a block may have.
        for (major, minor, most) in [
            (7, 5, 65_536),
            (8, 0, 166_912),
            (8, 6, 101_376),
            (8, 9, 101_376),
            (9, 0, 232_448),
            (10, 0, 232_448),
            (12, 0, 101_376),
        ] {
            let sources = Source::all(Capability::new(major, minor));
            assert!(!sources.is_empty());
            for source in sources {
                let bytes = match source {
                    Source::Matmul(tiling) => {
                        assert!((3..=6).contains(&tiling.stages()), "{tiling:?}");
                        tiling.shared_bytes()
                    }
                    Source::Conv(tiling) => tiling.shared_bytes(),
                    Source::Attention { head, keys, .. } => Source::attention_bytes(head, keys),
                    _ => 0,
                };
                assert!(bytes <= most, "{source:?} on {major}.{minor}: {bytes}");
            }
        }
    }
}
