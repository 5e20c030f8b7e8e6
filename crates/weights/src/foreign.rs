//! Files of other programs, told by what they hold: other formats, and weights that are quantized.

/// What a file that is not safetensors is, by its first bytes.
pub(crate) fn format(start: &[u8]) -> Option<&'static str> {
    const FORMATS: [(&[u8], &str); 7] = [
        (b"PK\x03\x04", PICKLE),
        (b"\x80\x02", PICKLE),
        (b"version https://git-lfs", "it is a Git LFS pointer; run git lfs pull"),
        (b"<!DOCTYPE", PAGE),
        (b"<!doctype", PAGE),
        (b"<html", PAGE),
        (b"\x89HDF", "it is an HDF5 file, which is not read; use a safetensors file"),
    ];
    FORMATS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, what)| *what)
}

const PICKLE: &str = "it is a pickled file, which can run code when it is read; convert it with safetensors.torch.save_file";
const PAGE: &str = "it is a web page; download the file itself";

/// Key of a file's metadata that describes ComfyUI's quantized layers.
pub(crate) const COMFY_LAYERS: &str = "_quantization_metadata";

/// Bytes that [`format`] looks at.
pub(crate) const START: usize = 24;

/// The sort of quantized weights that a tensor of this name belongs to. Such weights are packed or
/// divided by a scale, and without that they are other numbers.
pub(crate) fn quantized(name: &str) -> Option<&'static str> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let known = MARKS.iter().find(|(mark, _)| *mark == last);
    // A segment with a name of its own: `weight.quant_state.bitsandbytes__nf4`.
    let inner = || INNER.iter().find(|(mark, _)| name.contains(mark));
    known.or_else(inner).map(|(_, sort)| *sort)
}

/// The same by a key of a file's metadata.
pub(crate) fn quantized_metadata(key: &str) -> Option<&'static str> {
    METADATA.iter().find(|(mark, _)| *mark == key).map(|(_, sort)| *sort)
}

const FP8: &str = "fp8 with scales";
const COMFY: &str = "ComfyUI's quantized layers";
const SCALED: &str = "fp8, int8 or nvfp4 with scales";
const BITSANDBYTES: &str = "bitsandbytes";
const GPTQ: &str = "GPTQ or AWQ";
const SVDQUANT: &str = "SVDQuant (Nunchaku)";
const DFLOAT: &str = "DFloat11";
const MLX: &str = "MLX";

/// Last segments of names.
const MARKS: [(&str, &str); 38] = [
    ("scaled_fp8", FP8),
    ("scale_weight", FP8),
    ("scale_input", FP8),
    ("comfy_quant", COMFY),
    ("weight_scale", SCALED),
    ("weight_scale_2", SCALED),
    ("weight_scale_inv", SCALED),
    ("input_scale", SCALED),
    ("pre_quant_scale", SCALED),
    ("weight_scales", SCALED),
    ("weight_zero_point", SCALED),
    ("weight_packed", SCALED),
    ("weight_shape", SCALED),
    ("absmax", BITSANDBYTES),
    ("nested_absmax", BITSANDBYTES),
    ("quant_map", BITSANDBYTES),
    ("nested_quant_map", BITSANDBYTES),
    ("SCB", BITSANDBYTES),
    ("weight_format", BITSANDBYTES),
    ("qweight", "SVDQuant (Nunchaku), GPTQ or AWQ"),
    ("qzeros", GPTQ),
    ("g_idx", GPTQ),
    ("wscales", SVDQUANT),
    ("wtscale", SVDQUANT),
    ("wcscales", SVDQUANT),
    ("smooth_factor", SVDQUANT),
    ("smooth_factor_orig", SVDQUANT),
    ("proj_down", SVDQUANT),
    ("proj_up", SVDQUANT),
    ("encoded_exponent", DFLOAT),
    ("sign_mantissa", DFLOAT),
    ("luts", DFLOAT),
    ("output_positions", DFLOAT),
    ("svd_up", "SDNQ"),
    ("svd_down", "SDNQ"),
    ("zero_point", "SDNQ"),
    ("scales", MLX),
    ("biases", MLX),
];

const INNER: [(&str, &str); 3] = [
    (".quant_state.", BITSANDBYTES),
    (".bitsandbytes__", BITSANDBYTES),
    (".quantizer.", "a quantizer's own"),
];

const METADATA: [(&str, &str); 3] = [
    ("quantization_config", SVDQUANT),
    ("quantization_level", MLX),
    ("mflux_version", "MLX (mflux)"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantized_weights_are_known_by_their_companions() {
        for (name, sort) in [
            ("scaled_fp8", "fp8"),
            ("model.diffusion_model.scaled_fp8", "fp8"),
            ("layers.0.attention.qkv.scale_weight", "fp8"),
            ("layers.0.attention.qkv.comfy_quant", "ComfyUI"),
            ("layers.0.attention.qkv.weight_scale_2", "nvfp4"),
            ("layers.0.attention.qkv.input_scale", "nvfp4"),
            ("layers.0.feed_forward.w1.weight.absmax", "bitsandbytes"),
            ("layers.0.feed_forward.w1.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
            ("layers.0.attention.to_qkv.wscales", "SVDQuant"),
            ("layers.0.attention.to_q.qzeros", "GPTQ"),
            ("layers.0.attention.to_q.scales", "MLX"),
        ] {
            let found = quantized(name).unwrap_or_else(|| panic!("{name}"));
            assert!(found.contains(sort), "{name}: {found}");
        }
        for name in [
            "layers.0.attention.qkv.weight",
            "decoder.conv_in.bias",
            "x_pad_token",
            "logit_scale",
            "norm_final.weight",
        ] {
            assert_eq!(quantized(name), None, "{name}");
        }
        assert_eq!(quantized_metadata("format"), None);
    }

    #[test]
    fn other_formats_are_known_by_their_first_bytes() {
        assert!(format(b"PK\x03\x04rest").expect("known").contains("pickled"));
        assert!(format(b"<!DOCTYPE html>").expect("known").contains("web page"));
        assert_eq!(format(&1000u64.to_le_bytes()), None);
        assert_eq!(format(b"GGUF\x03\0\0\0"), None, "read");
        assert_eq!(format(b""), None);
    }
}
