//! ComfyUI's quantized layers in safetensors files: a weight, and beside it what says how it is packed.
//!
//! The older layout has `scale_weight` beside an fp8 weight. The newer one has `comfy_quant`, JSON as
//! bytes, beside each weight, or the same for all layers in the file's metadata.

mod layer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use crate::{LoadError, foreign::COMFY_LAYERS, mapped::Mapped, names::Part, source::TensorSpan};
use layer::Layer;

/// Longest description of a layer.
const MOST_JSON: usize = 1 << 12;

/// Tensors of a model with the parts of it that they are.
pub(crate) type Named = Vec<(TensorSpan, Vec<Part>)>;

/// Turns weights that have scales beside them into packed ones, and takes away what was beside them.
///
/// # Errors
///
/// Where a layer is packed in a way that is not known, or what belongs to it is missing or odd.
pub(crate) fn join(tensors: Named, files: &[Arc<Mapped>]) -> Result<Named, LoadError> {
    let mut joined: BTreeMap<(usize, Arc<str>), TensorSpan> = BTreeMap::new();
    let mut gone: BTreeSet<(usize, Arc<str>)> = BTreeSet::new();
    for (index, file) in files.iter().enumerate() {
        let own = tensors.iter().map(|(span, _)| span).filter(|span| span.file == index);
        let spans: BTreeMap<&str, &TensorSpan> = own.map(|span| (&*span.name, span)).collect();
        let invalid = |cause: String| LoadError::Invalid { path: file.path.clone(), cause };
        let header = described(file).map_err(invalid)?;
        for (&name, span) in &spans {
            let Some((module, last)) = name.rsplit_once('.').filter(|(_, last)| *last == "weight")
            else {
                // A mark without a module: that some layers have scales.
                if name.rsplit('.').next() == Some("scaled_fp8") {
                    gone.insert((index, name.into()));
                }
                continue;
            };
            debug_assert_eq!(last, "weight");
            let layer = Layer { module, weight: span, spans: &spans, file };
            let description = match layer.beside("comfy_quant") {
                Some(bytes) => Some(layer.json(bytes, MOST_JSON)?),
                None => header.iter().find(|(of, _)| is_module(module, of)).map(|(_, v)| v.clone()),
            };
            let packed = match description {
                Some(description) => Some(layer.described(&description)?),
                None => layer.older()?,
            };
            if let Some((packed, used)) = packed {
                gone.extend(used.into_iter().map(|name| (index, name)));
                joined.insert((index, Arc::clone(&span.name)), packed);
            }
        }
    }
    let joined = tensors.into_iter().filter_map(|(span, parts)| {
        let key = (span.file, Arc::clone(&span.name));
        match joined.remove(&key) {
            Some(packed) => Some((packed, parts)),
            None => (!gone.contains(&key)).then_some((span, parts)),
        }
    });
    Ok(joined.collect())
}

/// Whether a layer of the metadata is this module; its prefix may be missing there.
fn is_module(module: &str, layer: &str) -> bool {
    module.strip_suffix(layer).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The layers that a file's metadata describe.
fn described(file: &Mapped) -> Result<BTreeMap<String, Value>, String> {
    let Some(text) = &file.layers else { return Ok(BTreeMap::new()) };
    let metadata: Value = serde_json::from_str(text)
        .map_err(|error| format!("'{COMFY_LAYERS}' in its metadata is not JSON ({error})"))?;
    match metadata.get("layers") {
        Some(Value::Object(layers)) => {
            Ok(layers.iter().map(|(name, about)| (name.clone(), about.clone())).collect())
        }
        _ => Err(format!("'{COMFY_LAYERS}' in its metadata has no layers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_a_module_with_or_without_its_prefix() {
        assert!(is_module("layers.0.w1", "layers.0.w1"));
        assert!(is_module("model.diffusion_model.layers.0.w1", "layers.0.w1"));
        assert!(!is_module("noise_layers.0.w1", "layers.0.w1"));
        assert!(!is_module("layers.0.w1", "model.layers.0.w1"));
    }
}
