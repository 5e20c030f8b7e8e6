//! `scheduler/scheduler_config.json`: the class of a diffusers scheduler and its settings, which
//! select one of ours and its shift.

use std::path::Path;

use llm_dit_params::{Scheduler, bounds, excerpt};
use llm_dit_weights::{Kind, Library, LoadError, Rule, Schema, read_object};
use serde_json::{Map, Value};

/// A class of diffusers that one of our schedulers computes as.
struct Class {
    name: &'static str,
    scheduler: Scheduler,
    /// What the class calls the shift. Each has 1 where nothing is said.
    shift: &'static str,
    schema: Schema,
}

/// The names of [`CLASSES`].
pub(crate) const CLASS_NAMES: &[&str] = &[
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
];

/// The first is what a file without a class is read as.
const CLASSES: [Class; 4] = [
    Class {
        name: CLASS_NAMES[0],
        scheduler: Scheduler::FlowEuler,
        shift: "shift",
        schema: Schema { keys: FLOW_EULER, library: Library::Diffusers },
    },
    Class {
        name: CLASS_NAMES[1],
        scheduler: Scheduler::FlowHeun,
        shift: "shift",
        schema: Schema { keys: FLOW_HEUN, library: Library::Diffusers },
    },
    Class {
        name: CLASS_NAMES[2],
        scheduler: Scheduler::DpmSolver,
        shift: "flow_shift",
        schema: Schema { keys: DPM_SOLVER, library: Library::Diffusers },
    },
    Class {
        name: CLASS_NAMES[3],
        scheduler: Scheduler::UniPc,
        shift: "flow_shift",
        schema: Schema { keys: UNIPC, library: Library::Diffusers },
    },
];

/// The model's time goes from 0 to 1 in as many parts as it was trained with.
const TRAIN_STEPS: Rule = Rule::Only(&["1000"]);
const NO: Rule = Rule::Only(&["false", "null"]);
const YES: Rule = Rule::Only(&["true"]);
const SHIFT: Rule = Rule::Read(Kind::Number);
const FLOW: Rule = Rule::Must(&["\"flow_prediction\""]);
/// diffusers compares with 0 what may be null.
const NO_TERMINAL: Rule = Rule::Only(&["null", "0"]);

const FLOW_EULER: &[(&str, Rule)] = &[
    ("_class_name", Rule::Ignored),
    ("num_train_timesteps", TRAIN_STEPS),
    ("shift", SHIFT),
    ("use_dynamic_shifting", NO),
    ("invert_sigmas", NO),
    ("shift_terminal", NO_TERMINAL),
    ("use_karras_sigmas", NO),
    ("use_exponential_sigmas", NO),
    ("use_beta_sigmas", NO),
    ("stochastic_sampling", NO),
    // What dynamic shifting depends on.
    ("base_shift", Rule::Ignored),
    ("max_shift", Rule::Ignored),
    ("base_image_seq_len", Rule::Ignored),
    ("max_image_seq_len", Rule::Ignored),
    ("time_shift_type", Rule::Ignored),
];

const FLOW_HEUN: &[(&str, Rule)] =
    &[("_class_name", Rule::Ignored), ("num_train_timesteps", TRAIN_STEPS), ("shift", SHIFT)];

const DPM_SOLVER: &[(&str, Rule)] = &[
    ("_class_name", Rule::Ignored),
    ("num_train_timesteps", TRAIN_STEPS),
    ("flow_shift", SHIFT),
    ("use_flow_sigmas", Rule::Must(&["true"])),
    ("prediction_type", FLOW),
    ("solver_order", Rule::Only(&["2"])),
    // The class reads the names of other solvers' types as its own default.
    ("algorithm_type", Rule::Only(&["\"dpmsolver++\"", "\"deis\""])),
    ("solver_type", Rule::Only(&["\"midpoint\"", "\"logrho\"", "\"bh1\"", "\"bh2\""])),
    ("lower_order_final", YES),
    // With a last sigma of 0, the last step is Euler's in any case.
    ("euler_at_final", Rule::Ignored),
    ("final_sigmas_type", Rule::Only(&["\"zero\""])),
    ("thresholding", NO),
    ("variance_type", Rule::Only(&["null"])),
    ("use_karras_sigmas", NO),
    ("use_exponential_sigmas", NO),
    ("use_beta_sigmas", NO),
    ("use_lu_lambdas", NO),
    ("use_dynamic_shifting", NO),
    // Of thresholding, of dynamic shifting, and of noise that is no flow.
    ("dynamic_thresholding_ratio", Rule::Ignored),
    ("sample_max_value", Rule::Ignored),
    ("time_shift_type", Rule::Ignored),
    ("beta_start", Rule::Ignored),
    ("beta_end", Rule::Ignored),
    ("beta_schedule", Rule::Ignored),
    ("trained_betas", Rule::Ignored),
    ("lambda_min_clipped", Rule::Ignored),
    ("timestep_spacing", Rule::Ignored),
    ("steps_offset", Rule::Ignored),
    ("rescale_betas_zero_snr", Rule::Ignored),
];

const UNIPC: &[(&str, Rule)] = &[
    ("_class_name", Rule::Ignored),
    ("num_train_timesteps", TRAIN_STEPS),
    ("flow_shift", SHIFT),
    ("use_flow_sigmas", Rule::Must(&["true"])),
    ("prediction_type", FLOW),
    ("solver_order", Rule::Only(&["2"])),
    ("predict_x0", YES),
    ("solver_type", Rule::Only(&["\"bh2\"", "\"midpoint\"", "\"heun\"", "\"logrho\""])),
    ("lower_order_final", YES),
    ("disable_corrector", Rule::Only(&["[]", "null"])),
    ("solver_p", Rule::Only(&["null"])),
    ("final_sigmas_type", Rule::Only(&["\"zero\""])),
    ("thresholding", NO),
    ("use_karras_sigmas", NO),
    ("use_exponential_sigmas", NO),
    ("use_beta_sigmas", NO),
    ("use_dynamic_shifting", NO),
    ("shift_terminal", NO_TERMINAL),
    ("sigma_min", Rule::Only(&["null"])),
    ("sigma_max", Rule::Only(&["null"])),
    // Of thresholding, of dynamic shifting, and of noise that is no flow.
    ("dynamic_thresholding_ratio", Rule::Ignored),
    ("sample_max_value", Rule::Ignored),
    ("time_shift_type", Rule::Ignored),
    ("beta_start", Rule::Ignored),
    ("beta_end", Rule::Ignored),
    ("beta_schedule", Rule::Ignored),
    ("trained_betas", Rule::Ignored),
    ("timestep_spacing", Rule::Ignored),
    ("steps_offset", Rule::Ignored),
    ("rescale_betas_zero_snr", Rule::Ignored),
];

/// The scheduler that the file selects, and its shift.
///
/// # Errors
///
/// [`LoadError`] if the file cannot be read, names a class that none of ours computes as, or has a
/// setting that would change the picture.
pub(crate) fn read(path: &Path) -> Result<(Scheduler, f64), LoadError> {
    let invalid = |cause| LoadError::Invalid { path: path.to_owned(), cause };
    select(&read_object(path)?).map_err(invalid)
}

fn select(object: &Map<String, Value>) -> Result<(Scheduler, f64), String> {
    let named = object.get("_class_name").and_then(Value::as_str);
    let class = match (named, object.get("_class_name")) {
        (None, None | Some(Value::Null)) => Some(&CLASSES[0]),
        (named, _) => CLASSES.iter().find(|class| Some(class.name) == named),
    };
    let class = class.ok_or_else(|| {
        let name = object.get("_class_name").map(Value::to_string).unwrap_or_default();
        let known = CLASS_NAMES.join(", ");
        let name = excerpt(&name);
        format!("'_class_name' is {name}, which is not supported; known are {known}")
    })?;
    class.schema.check(object).map_err(|why| format!("{why} (of a {})", class.name))?;
    let shift = object.get(class.shift).and_then(Value::as_f64).unwrap_or(1.0);
    if bounds::SHIFT.allows_number(shift) {
        Ok((class.scheduler, shift))
    } else {
        Err(format!("'{}' is {shift}; it must be {}", class.shift, bounds::SHIFT))
    }
}
