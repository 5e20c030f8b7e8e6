//! Lists of choices: templates, schedulers, and the model's defaults and limits.

use axum::{Json, extract::State};
use llm_dit_params::Scheduler;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Shared, problem::Problems};
use crate::records::{model::Model, problem::Problem};

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TemplatesBody {
    /// Sorted by category, then by name.
    templates: Vec<TemplateBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TemplateBody {
    name: String,
    /// With the prefix `z_image_`; both names are accepted.
    full_name: String,
    category: String,
    description: String,
    has_thinking: bool,
    system_prompt: String,
    #[schema(required = true)]
    thinking_content: Option<String>,
    #[schema(required = true)]
    assistant_content: Option<String>,
    add_think_block: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SchedulersBody {
    schedulers: Vec<SchedulerBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SchedulerBody {
    id: &'static str,
    name: &'static str,
    description: &'static str,
}

/// What the diffusion service has loaded.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelBody {
    model: String,
    /// What the model says of itself: what it can and cannot draw.
    #[schema(required = true)]
    description: Option<String>,
    /// Prompts that suit the model.
    examples: Vec<String>,
    device: String,
    /// Compute dtype of the transformer.
    #[schema(required = true)]
    dtype: Option<String>,
    version: String,
    defaults: DefaultsBody,
    limits: LimitsBody,
    /// Valid values of `encoder`; the first is the default.
    encoders: Vec<String>,
    /// Whether the model supports previews.
    previews: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DefaultsBody {
    width: u32,
    height: u32,
    steps: u32,
    guidance_scale: f32,
    shift: f64,
    scheduler: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LimitsBody {
    side_multiple: u32,
    min_side: u32,
    max_side: u32,
    max_pixels: u64,
    max_steps: u32,
    max_caption_tokens: u32,
}

/// All prompt templates.
#[utoipa::path(get, path = "/api/templates", tag = "choices", responses((status = 200, body = TemplatesBody), Problems))]
pub(crate) async fn templates(State(state): Shared) -> Json<TemplatesBody> {
    let categories = state.templates.by_category();
    let templates = categories.into_values().flatten().map(|template| TemplateBody {
        name: template.short_name().to_owned(),
        full_name: template.name.clone(),
        category: template.category.clone(),
        description: template.description.clone(),
        has_thinking: template.thinking_content.as_ref().is_some_and(|text| !text.is_empty()),
        system_prompt: template.system_prompt.clone(),
        thinking_content: template.thinking_content.clone(),
        assistant_content: template.assistant_content.clone(),
        add_think_block: template.add_think_block,
    });
    Json(TemplatesBody { templates: templates.collect() })
}

/// All schedulers.
#[utoipa::path(get, path = "/api/schedulers", tag = "choices", responses((status = 200, body = SchedulersBody), Problems))]
pub(crate) async fn schedulers() -> Json<SchedulersBody> {
    let body = |scheduler: Scheduler| SchedulerBody {
        id: scheduler.id(),
        name: match scheduler {
            Scheduler::FlowEuler => "Euler",
            Scheduler::FlowHeun => "Heun",
            Scheduler::DpmSolver => "DPM-Solver++ 2M",
            Scheduler::UniPc => "UniPC",
        },
        description: scheduler.description(),
    };
    Json(SchedulersBody { schedulers: Scheduler::ALL.map(body).into() })
}

/// The model of the diffusion service, its defaults and its limits.
#[utoipa::path(get, path = "/api/model", tag = "choices", responses((status = 200, body = ModelBody), Problems))]
pub(crate) async fn model(State(state): Shared) -> Result<Json<ModelBody>, Problem> {
    let model = state.backends.model().await?;
    let names = state.backends.encoder_names(model.has_encoder);
    let encoders = names.into_iter().map(str::to_owned).collect();
    let Model { defaults, limits, .. } = model;
    Ok(Json(ModelBody {
        model: model.name,
        description: Some(model.description).filter(|text| !text.is_empty()),
        examples: model.examples,
        device: model.device,
        dtype: model.dtype.map(|dtype| dtype.to_string()),
        version: model.version,
        defaults: DefaultsBody {
            width: defaults.width,
            height: defaults.height,
            steps: defaults.steps,
            guidance_scale: defaults.guidance_scale,
            shift: defaults.shift,
            scheduler: defaults.scheduler.id(),
        },
        limits: LimitsBody {
            side_multiple: limits.side_multiple,
            min_side: limits.min_side,
            max_side: limits.max_side,
            max_pixels: limits.max_pixels,
            max_steps: limits.max_steps,
            max_caption_tokens: model.max_caption_tokens,
        },
        encoders,
        previews: model.has_previews,
    }))
}
