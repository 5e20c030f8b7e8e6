//! ComfyUI's `prompt`: an object of nodes by id, each with a class and inputs, which are values or links
//! `[id, output]`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Foreign;

/// Links that are followed from a sampler to a text or a size. Graphs may go in circles.
const MOST_LINKS: usize = 64;

/// Inputs by which a node passes something on, most telling first.
const THROUGH: [&str; 8] =
    ["conditioning", "conditioning_1", "positive", "text", "string", "value", "samples", "latent"];

#[derive(Deserialize)]
struct Node {
    class_type: String,
    #[serde(default)]
    inputs: BTreeMap<String, Value>,
}

type Graph = BTreeMap<String, Node>;

pub(super) fn read(json: &str) -> Option<Foreign> {
    let graph: Graph = serde_json::from_str(json).ok()?;
    let samplers = || graph.values().filter(|node| node.class_type.starts_with("KSampler"));
    // A second one refines what the first has made.
    let first =
        samplers().find(|node| size(&graph, node).is_some()).or_else(|| samplers().next())?;
    let mut found = Foreign::default();
    let settings = &mut found.recipe.settings;
    settings.prompt = text(&graph, first, "positive");
    settings.negative_prompt = text(&graph, first, "negative");
    (settings.width, settings.height) = size(&graph, first).unzip();
    settings.steps = whole(first, "steps").and_then(|steps| steps.try_into().ok());
    settings.seed = whole(first, "seed").or_else(|| whole(first, "noise_seed"));
    if let Some(cfg) = first.inputs.get("cfg").and_then(Value::as_f64) {
        found.set_guidance(cfg);
    }
    if let Some(name) = first.inputs.get("sampler_name").and_then(Value::as_str) {
        found.set_sampler(name);
    }
    if let Some(scheduler) = first.inputs.get("scheduler").and_then(Value::as_str)
        && !matches!(scheduler, "simple" | "normal" | "sgm_uniform")
    {
        found.leave_out("Scheduler", scheduler);
    }
    if let Some(denoise) = first.inputs.get("denoise").and_then(Value::as_f64)
        && denoise < 1.0
    {
        found.leave_out("Denoise", &denoise.to_string());
    }
    follow_model(&graph, first, &mut found);
    for other in samplers().filter(|other| !std::ptr::eq(*other, first)) {
        found.leave_out("Another sampler", &other.class_type);
    }
    Some(found)
}

/// The node that an input is linked to.
fn linked<'a>(graph: &'a Graph, node: &Node, input: &str) -> Option<&'a Node> {
    graph.get(node.inputs.get(input)?.as_array()?.first()?.as_str()?)
}

fn whole(node: &Node, input: &str) -> Option<u64> {
    node.inputs.get(input)?.as_u64()
}

/// The first text that an input leads to; `None` where there is none, or it was emptied on the way.
fn text(graph: &Graph, node: &Node, input: &str) -> Option<String> {
    let mut node = linked(graph, node, input)?;
    for _ in 0..MOST_LINKS {
        if node.class_type == "ConditioningZeroOut" {
            return None;
        }
        let own = ["text", "prompt", "string", "value"]
            .iter()
            .find_map(|input| node.inputs.get(*input).and_then(Value::as_str));
        if let Some(own) = own {
            return Some(own.to_owned()).filter(|text| !text.is_empty());
        }
        node = THROUGH.iter().find_map(|input| linked(graph, node, input))?;
    }
    None
}

/// Width and height of the empty latents that a sampler begins with.
fn size(graph: &Graph, sampler: &Node) -> Option<(u32, u32)> {
    let mut node = linked(graph, sampler, "latent_image")?;
    for _ in 0..MOST_LINKS {
        let side = |input| whole(node, input).and_then(|side| u32::try_from(side).ok());
        if let Some(size) = side("width").zip(side("height")) {
            return Some(size);
        }
        node = THROUGH.iter().find_map(|input| linked(graph, node, input))?;
    }
    None
}

/// The shift, the file and the LoRAs on the way to the sampler's model.
fn follow_model(graph: &Graph, sampler: &Node, found: &mut Foreign) {
    let mut node = linked(graph, sampler, "model");
    for _ in 0..MOST_LINKS {
        let Some(at) = node else { return };
        let named = |input: &str| at.inputs.get(input).and_then(Value::as_str);
        if let Some(shift) = at.inputs.get("shift").and_then(Value::as_f64) {
            found.recipe.settings.shift.get_or_insert(shift);
        }
        if let Some(lora) = named("lora_name") {
            let scale = at.inputs.get("strength_model").and_then(Value::as_f64).unwrap_or(1.0);
            found.leave_out("LoRA", &format!("{lora}:{scale}"));
        }
        let file = named("unet_name").or_else(|| named("ckpt_name"));
        if let Some(file) = file {
            found.recipe.model = Some(file.to_owned());
        }
        node = linked(graph, at, "model");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ComfyUI's template for Z-Image-Turbo, with a LoRA.
    const TURBO: &str = r#"{
        "3": {"class_type": "KSampler", "inputs": {
            "seed": 11, "steps": 9, "cfg": 1, "sampler_name": "euler", "scheduler": "simple",
            "denoise": 1, "model": ["12", 0], "positive": ["6", 0], "negative": ["7", 0],
            "latent_image": ["13", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["30", 0]}},
        "7": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}},
        "11": {"class_type": "LoraLoaderModelOnly", "inputs": {
            "lora_name": "ink.safetensors", "strength_model": 0.8, "model": ["16", 0]}},
        "12": {"class_type": "ModelSamplingAuraFlow", "inputs": {"shift": 3, "model": ["11", 0]}},
        "13": {"class_type": "EmptySD3LatentImage", "inputs":
            {"width": 1024, "height": 768, "batch_size": 1}},
        "16": {"class_type": "UNETLoader", "inputs": {"unet_name": "z_image_turbo_bf16.safetensors"}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}}
    }"#;

    #[test]
    fn a_graph_gives_its_samplers_settings() {
        let found = read(TURBO).expect("a graph");
        let settings = &found.recipe.settings;
        assert_eq!(settings.prompt.as_deref(), Some("a fox"));
        assert_eq!(settings.negative_prompt, None, "it is zeroed");
        assert_eq!((settings.steps, settings.seed), (Some(9), Some(11)));
        assert_eq!((settings.width, settings.height), (Some(1024), Some(768)));
        assert_eq!((settings.guidance_scale, settings.shift), (Some(0.0), Some(3.0)));
        assert_eq!(settings.scheduler.as_deref(), Some("flow_euler"));
        assert_eq!(found.recipe.model.as_deref(), Some("z_image_turbo_bf16.safetensors"));
        assert_eq!(found.left_out, ["LoRA: ink.safetensors:0.8"]);
    }

    #[test]
    fn texts_are_found_behind_other_nodes_and_circles_end() {
        let graph = TURBO.replace(r#""text": "a fox""#, r#""text": ["40", 0]"#).replace(
            r#""9": {"#,
            r#""40": {"class_type": "PrimitiveString", "inputs": {"value": "a hen"}}, "9": {"#,
        );
        let found = read(&graph).expect("a graph");
        assert_eq!(found.recipe.settings.prompt.as_deref(), Some("a hen"));
        let circle = TURBO.replace(r#""text": "a fox", "clip": ["30", 0]"#, r#""text": ["6", 0]"#);
        assert_eq!(read(&circle).expect("a graph").recipe.settings.prompt, None);
        for other in ["", "{}", "[]", "{\"1\": {}}", "{\"1\": {\"class_type\": \"SaveImage\"}}"] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
