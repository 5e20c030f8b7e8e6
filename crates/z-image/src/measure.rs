//! What models will take of their device, read from their files without the weights.

use std::path::PathBuf;

use llm_dit_engine::plan::{Part, PartSize};
use llm_dit_params::ModelDefaults;
use llm_dit_weights::{LoadError, Parts};

use crate::{
    DiffusionOptions, Largest, defaults,
    load::{open_dit, open_vae},
    vae::Cost,
    work::work,
};

/// What the transformers of these models, or of the options alone, take of their device, with the VAEs
/// if those are there too. `largest`: the image that is planned for; `None`:
/// one as the models make it unasked. `weights`: bytes that all weights may take together
/// (`--model-memory`).
///
/// # Errors
///
/// [`LoadError`] if a file is missing or invalid, or if a device cannot be opened.
pub fn measure(
    options: &DiffusionOptions,
    models: &[(String, PathBuf)],
    weights: Option<u64>,
    largest: Option<Largest>,
) -> Result<Parts, LoadError> {
    let each = options.each(models.to_vec());
    let parts = each.iter().map(|one| measure_one(one, largest)).collect::<Result<Vec<_>, _>>()?;
    let sum = |part: Part| {
        let sizes = parts.iter().flat_map(|parts| &parts.sizes).filter(|size| size.part == part);
        sizes.copied().reduce(|sum, size| PartSize {
            packed: sum.packed + size.packed,
            expanded: sum.expanded + size.expanded,
            part,
        })
    };
    let sizes: Vec<PartSize> = [Part::Transformer, Part::Vae].into_iter().filter_map(sum).collect();
    let sizes = if parts.len() > 1 { within(sizes, weights) } else { sizes };
    let all = parts.into_iter().reduce(Parts::with);
    let Some(all) = all else { return measure_one(options, largest) };
    Ok(Parts { sizes, ..all })
}

/// Models that are used are loaded at the cost of others: together they stay below the limit.
fn within(mut sizes: Vec<PartSize>, weights: Option<u64>) -> Vec<PartSize> {
    let Some(mut left) = weights else { return sizes };
    for size in &mut sizes {
        (size.packed, size.expanded) = (size.packed.min(left), size.expanded.min(left));
        left -= size.expanded;
    }
    sizes
}

fn measure_one(options: &DiffusionOptions, largest: Option<Largest>) -> Result<Parts, LoadError> {
    let largest = match largest {
        Some(largest) => largest,
        None => {
            let ModelDefaults { width, height, guidance_scale, .. } = defaults(options)?;
            Largest { width, height, is_guided: guidance_scale > 0.0 }
        }
    };
    let (device, vae_device) = options.open_devices()?;
    let (dit, vae) = (options.dit_files(), options.vae_files());
    let (model, dtype) = (&options.model_path, options.dtype);
    let (config, weights) = open_dit(&dit, model, &device, dtype, options.packing)?;
    let vae_dtype = options.vae_compute_dtype(&vae_device);
    let (vae_config, vae_weights) = open_vae(&vae, model, &vae_device, vae_dtype)?;
    let dtype = weights.dtype();
    let dit = (&config, Cost::new(&device, dtype, 1), dtype);
    let vae = (&vae_config, Cost::new(&vae_device, vae_dtype, 1));
    let mut taken = work(dit, vae, options.vae_tiling, largest);
    let mut sizes = vec![weights.size(Part::Transformer)];
    if vae_device.same_device(&device) {
        sizes.push(vae_weights.size(Part::Vae));
    } else {
        (taken.decode, taken.decode_least) = (0, 0);
    }
    Ok(Parts { device, sizes, work: taken })
}
