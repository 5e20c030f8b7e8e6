//! Matches a file's modules with the transformer's tensors.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use llm_dit_engine::image::LoraChoice;
use llm_dit_params::{LoraPass, block_contains};
use llm_dit_weights::{
    Change, Overlay, Part,
    lora::{Difference, LoraError, LoraFile, LoraModule, Whole, flat},
};

use crate::dit::{self, linear_layers, names::canonical, native_modules, tensors};

/// Ends of tensors' names.
const WEIGHT: &str = ".weight";
const BIAS: &str = ".bias";

/// How many names a message lists.
const FEW: usize = 3;

/// A module of a file that is known to fit.
#[derive(Debug)]
pub(super) struct Fit<'a> {
    module: &'a LoraModule,
    /// Linear layers of the transformer: one, or three for a fused projection.
    pub parts: Vec<Part>,
}

/// A whole tensor of a file that is known to fit.
#[derive(Debug)]
pub(super) struct WholeFit<'a> {
    difference: &'a Difference,
    /// Tensors of the transformer: one, or three for a fused projection.
    pub parts: Vec<Part>,
}

/// What a file changes.
#[derive(Debug)]
pub(super) struct Fits<'a> {
    modules: Vec<Fit<'a>>,
    differences: Vec<WholeFit<'a>>,
}

impl Fits<'_> {
    /// Tensors of the transformer that are changed.
    pub fn count(&self) -> usize {
        let modules = self.modules.iter().map(|fit| fit.parts.len());
        modules.chain(self.differences.iter().map(|fit| fit.parts.len())).sum()
    }
}

/// Finds what every module of a file changes, and which keys fit nothing. Reads no factors.
pub(super) fn fit<'a>(
    file: &'a LoraFile,
    config: &dit::Config,
) -> Result<(Fits<'a>, Vec<String>), LoraError> {
    let layers = linear_layers(config);
    // Kohya's tools write underscores for dots, which names have too. So names are not taken
    // apart: they are looked up among all there are, every dot read as an underscore.
    let spellings: HashMap<String, Vec<Part>> = layers
        .keys()
        .map(|name| (flat(name), vec![Part::whole(name.as_str())]))
        .chain(native_modules(config).iter().map(|name| (flat(name), canonical(name))))
        .collect();

    let mut unmatched: Vec<String> = file.unknown_keys().to_vec();
    let mut fits: Vec<Fit<'a>> = Vec::new();
    for module in file.modules() {
        match spellings.get(&flat(&module.name)) {
            Some(parts) if parts.iter().all(|part| layers.contains_key(&part.name)) => {
                fits.push(Fit { module, parts: parts.clone() });
            }
            _ => unmatched.push(module.key.clone()),
        }
    }
    let differences = fit_differences(file, config, &mut unmatched)?;
    if fits.is_empty() && differences.is_empty() {
        return Err(no_match(file, &unmatched, &layers));
    }
    for fit in &fits {
        fit.check_shape(file, &layers)?;
    }
    Ok((Fits { modules: without_repeats(file, fits)?, differences }, unmatched))
}

/// Finds the tensors that the differences of a file belong to.
fn fit_differences<'a>(
    file: &'a LoraFile,
    config: &dit::Config,
    unmatched: &mut Vec<String>,
) -> Result<Vec<WholeFit<'a>>, LoraError> {
    let tensors = tensors(config);
    let mut spellings: HashMap<(String, Whole), Vec<Part>> = HashMap::new();
    for name in tensors.keys() {
        let (module, of) = match name.strip_suffix(BIAS) {
            Some(module) => (module, Whole::Bias),
            None => (name.strip_suffix(WEIGHT).unwrap_or(name), Whole::Weight),
        };
        spellings.insert((flat(module), of), vec![Part::whole(name.as_str())]);
    }
    for module in native_modules(config) {
        for (of, suffix) in [(Whole::Weight, WEIGHT), (Whole::Bias, BIAS)] {
            let parts = canonical(&format!("{module}{suffix}"));
            if parts.iter().all(|part| tensors.contains_key(&part.name)) {
                spellings.insert((flat(&module), of), parts);
            }
        }
    }
    let mut taken: HashMap<String, &str> = HashMap::new();
    let mut fits = Vec::new();
    for difference in file.differences() {
        let Some(parts) = spellings.get(&(flat(&difference.name), difference.of)) else {
            unmatched.push(difference.key.clone());
            continue;
        };
        for Part { name, rows } in parts {
            let mut expected = tensors[name].clone();
            expected[0] *= rows.map_or(1, |rows| rows.of);
            let wide = |shape: &[usize]| -> Vec<usize> {
                shape.iter().copied().filter(|side| *side != 1).collect()
            };
            if wide(&difference.shape) != wide(&expected) {
                let found = &difference.shape;
                return Err(LoraError::Difference {
                    file: file.label().to_owned(),
                    key: difference.key.clone(),
                    misfit: format!("{found:?}, but '{name}' is {expected:?}"),
                });
            }
            if let Some(first) = taken.insert(name.clone(), &difference.key) {
                return Err(LoraError::Twice {
                    file: file.label().to_owned(),
                    first: first.to_owned(),
                    second: difference.key.clone(),
                    tensor: name.clone(),
                });
            }
        }
        fits.push(WholeFit { difference, parts: parts.clone() });
    }
    Ok(fits)
}

/// The changes that these modules are.
pub(super) fn overlay(
    file: &LoraFile,
    fits: &Fits<'_>,
    choice: &LoraChoice,
) -> Result<Overlay, LoraError> {
    let mut overlay = Overlay::default();
    let mut add = |name: String, share: Change| {
        let strength = share.strength * f64::from(choice.blocks.factor(&name));
        let positive_only = choice.pass == LoraPass::Positive;
        overlay.add(name, Change { strength, positive_only, ..share });
    };
    for Fit { module, parts } in &fits.modules {
        let change = file.change(module, f64::from(choice.scale))?;
        for part in parts {
            add(format!("{}{WEIGHT}", part.name), share(file, &module.key, &change, part)?);
        }
    }
    for WholeFit { difference, parts } in &fits.differences {
        let change = file.whole(difference, f64::from(choice.scale))?;
        for part in parts {
            add(part.name.clone(), share(file, &difference.key, &change, part)?);
        }
    }
    Ok(overlay)
}

/// Refuses blocks that the model does not have, which would change nothing.
pub(super) fn check_blocks(choice: &LoraChoice, config: &dit::Config) -> Result<(), LoraError> {
    let tensors = tensors(config);
    for (block, _) in choice.blocks.iter() {
        if !tensors.keys().any(|name| block_contains(block, name)) {
            let blocks: BTreeSet<&str> =
                tensors.keys().filter_map(|name| name.split('.').next()).collect();
            return Err(LoraError::Block {
                file: choice.name.clone(),
                block: block.to_owned(),
                ours: blocks.into_iter().collect::<Vec<_>>().join(", "),
            });
        }
    }
    Ok(())
}

/// What of the change of a fused projection belongs to one of its parts.
fn share(file: &LoraFile, key: &str, change: &Change, part: &Part) -> Result<Change, LoraError> {
    let Some(rows) = part.rows else { return Ok(change.clone()) };
    let share = change.share(rows).map_err(|e| LoraError::Backend(e.to_string()))?;
    share.ok_or_else(|| LoraError::Kind {
        file: file.label().to_owned(),
        key: key.to_owned(),
        kind: "a change of a fused projection that cannot be cut into its parts: a DoRA with lengths for columns, or an OFT with blocks across parts",
    })
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
            if !module.extent.fits(expected) {
                let (found, tensor) = (module.extent, &part.name);
                return Err(LoraError::Shape {
                    file: file.label().to_owned(),
                    key: module.key.clone(),
                    misfit: format!("{found}, but '{tensor}' is {expected:?}"),
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
