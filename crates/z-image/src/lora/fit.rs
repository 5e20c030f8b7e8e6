//! Matches a file's modules with the transformer's matrices.

use std::collections::{BTreeMap, HashMap};

use llm_dit_weights::{
    LowRank, Overlay, Part,
    lora::{LoraError, LoraFile, LoraModule, flat},
};

use crate::dit::{self, linear_layers, names::canonical, native_layers};

/// How many names a message lists.
const FEW: usize = 3;

/// A module of a file that is known to fit.
#[derive(Debug)]
pub(super) struct Fit<'a> {
    module: &'a LoraModule,
    /// Linear layers of the transformer: one, or three for a fused projection.
    pub parts: Vec<Part>,
}

/// Finds what every module of a file changes, and which keys fit nothing. Reads no factors.
pub(super) fn fit<'a>(
    file: &'a LoraFile,
    config: &dit::Config,
) -> Result<(Vec<Fit<'a>>, Vec<String>), LoraError> {
    let layers = linear_layers(config);
    // Kohya's tools write underscores for dots, which names have too. So names are not taken
    // apart: they are looked up among all there are, every dot read as an underscore.
    let spellings: HashMap<String, Vec<Part>> = layers
        .keys()
        .map(|name| (flat(name), vec![Part::whole(name.as_str())]))
        .chain(native_layers(config).iter().map(|name| (flat(name), canonical(name))))
        .collect();

    let mut unmatched: Vec<String> = file.unknown_keys().to_vec();
    let mut fits: Vec<Fit<'a>> = Vec::new();
    for module in file.modules() {
        match spellings.get(&flat(&module.name)) {
            Some(parts) => fits.push(Fit { module, parts: parts.clone() }),
            None => unmatched.push(module.key.clone()),
        }
    }
    if fits.is_empty() {
        return Err(no_match(file, &unmatched, &layers));
    }
    for fit in &fits {
        fit.check_shape(file, &layers)?;
    }
    Ok((without_repeats(file, fits)?, unmatched))
}

/// The changes that these modules are.
pub(super) fn overlay(file: &LoraFile, fits: &[Fit<'_>], scale: f32) -> Result<Overlay, LoraError> {
    let backend = |e: candle_core::Error| LoraError::Backend(e.to_string());
    let mut overlay = Overlay::default();
    for Fit { module, parts } in fits {
        let (up, down) = file.factors(module)?;
        let scale = module.scale * f64::from(scale);
        for part in parts {
            let up = match part.rows {
                None => up.clone(),
                Some(share) => {
                    let rows = module.outs / share.of;
                    let up = up.narrow(0, share.index * rows, rows).map_err(backend)?;
                    up.contiguous().map_err(backend)?
                }
            };
            let change = LowRank { up, down: down.clone(), scale };
            overlay.add(format!("{}.weight", part.name), change);
        }
    }
    Ok(overlay)
}

impl Fit<'_> {
    fn check_shape(
        &self,
        file: &LoraFile,
        layers: &BTreeMap<String, [usize; 2]>,
    ) -> Result<(), LoraError> {
        let module = self.module;
        for part in &self.parts {
            let Some(&[outs, ins]) = layers.get(&part.name) else { continue };
            let expected = [outs * part.rows.map_or(1, |rows| rows.of), ins];
            if [module.outs, module.ins] != expected {
                return Err(LoraError::Shape {
                    file: file.label().to_owned(),
                    key: module.key.clone(),
                    tensor: part.name.clone(),
                    found: [module.outs, module.ins],
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// Some trainers write the native `qkv` and `out` beside `to_q` and its like, with the same
/// change once more. The latter count. Any other two modules for one matrix are a mistake.
fn without_repeats<'a>(file: &LoraFile, fits: Vec<Fit<'a>>) -> Result<Vec<Fit<'a>>, LoraError> {
    let is_own = |fit: &Fit<'_>| flat(&fit.module.name) == flat(&fit.parts[0].name);
    let (own, native): (Vec<_>, Vec<_>) = fits.into_iter().partition(is_own);
    let mut taken: HashMap<String, &'a str> = HashMap::new();
    let mut kept = Vec::with_capacity(own.len() + native.len());
    for fit in own.into_iter().chain(native) {
        let repeated = fit.parts.iter().filter(|part| taken.contains_key(&part.name)).count();
        if repeated == fit.parts.len() && !is_own(&fit) {
            tracing::debug!(key = fit.module.key, "ignored a duplicate of other keys in the file");
            continue;
        }
        for part in &fit.parts {
            if let Some(first) = taken.insert(part.name.clone(), &fit.module.key) {
                return Err(LoraError::Twice {
                    file: file.label().to_owned(),
                    first: first.to_owned(),
                    second: fit.module.key.clone(),
                    tensor: part.name.clone(),
                });
            }
        }
        kept.push(fit);
    }
    Ok(kept)
}

fn no_match(
    file: &LoraFile,
    theirs: &[String],
    layers: &BTreeMap<String, [usize; 2]>,
) -> LoraError {
    let few = |names: &mut dyn Iterator<Item = &String>, count: usize| {
        let first: Vec<String> = names.take(FEW).map(|name| format!("'{name}'")).collect();
        match count {
            0 => "no keys at all".to_owned(),
            _ if count > FEW => format!("{} and {} more", first.join(", "), count - FEW),
            _ => first.join(", "),
        }
    };
    LoraError::NoMatch {
        file: file.label().to_owned(),
        theirs: few(&mut theirs.iter(), theirs.len()),
        ours: few(&mut layers.keys().filter(|name| name.starts_with("layers.")), layers.len()),
    }
}
