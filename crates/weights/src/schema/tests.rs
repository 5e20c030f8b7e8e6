use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

static INNER: Schema = Schema {
    keys: &[("theta", Rule::Read(Kind::Number)), ("type", Rule::Only(&["\"default\""]))],
    library: Library::None,
};

const OUTER: Schema = Schema {
    keys: &[
        ("size", Rule::Needed(Kind::Whole)),
        ("sizes", Rule::Read(Kind::Wholes)),
        ("rope", Rule::Read(Kind::Table(&INNER))),
        ("act", Rule::Only(&["\"silu\"", "\"swish\""])),
        ("kind", Rule::Must(&["\"flow\""])),
        ("steps", Rule::Only(&["1000"])),
        ("layers", Rule::Each(&["\"full\""])),
        ("note", Rule::Ignored),
        ("part", Rule::Read(Kind::Class(&["AutoencoderKL"]))),
    ],
    library: Library::Transformers,
};

#[derive(Debug, PartialEq, Deserialize)]
struct Outer {
    size: usize,
    sizes: Option<Vec<usize>>,
    #[serde(default = "one")]
    act: String,
}

fn one() -> String {
    "silu".into()
}

fn read(value: Value) -> Result<Outer, String> {
    OUTER.read(value.as_object().expect("an object"))
}

#[test]
fn what_is_read_is_read_and_the_rest_changes_nothing() {
    let good = json!({
        "size": 3, "sizes": null, "rope": {"theta": 1e6, "type": "default"}, "act": "swish",
        "kind": "flow", "steps": 1000.0, "layers": ["full", "full"], "note": [{"any": "thing"}],
        "part": ["diffusers", "AutoencoderKL"], "_name_or_path": "x", "torch_dtype": "bfloat16",
        "quantization_config": null, "top_k": 50,
    });
    assert_eq!(read(good), Ok(Outer { size: 3, sizes: None, act: "swish".into() }));
}

#[test]
fn everything_else_is_refused_by_name_with_what_is_accepted() {
    let base = json!({"size": 3, "kind": "flow"});
    for (key, value, words) in [
        ("size", json!(-1), "'size' is -1; it must be a whole number, 0 or more"),
        ("size", json!(2.5), "'size' is 2.5; it must be a whole number"),
        ("size", json!(1e30), "it must be a whole number"),
        ("size", json!(null), "'size' is null; it must be a whole number"),
        ("sizes", json!([1, "2"]), "'sizes' is [1,\"2\"]; it must be a list of whole numbers"),
        ("rope", json!("yarn"), "'rope' is \"yarn\"; it must be an object"),
        ("rope", json!({"type": "yarn"}), "'rope' has a bad entry: 'type' is \"yarn\""),
        ("rope", json!({"theta": "big"}), "'theta' is \"big\"; it must be a number"),
        ("rope", json!({"factor": 4.0}), "'factor' is not a known key; known are theta, type"),
        ("rope", json!({"_factor": 4.0}), "'_factor' is not a known key"),
        ("act", json!("gelu"), "'act' is \"gelu\", which is not supported; it must be \"silu\""),
        ("kind", json!("epsilon"), "it must be \"flow\""),
        ("steps", json!(500), "'steps' is 500, which is not supported; it must be 1000"),
        ("layers", json!(["full", "sliding"]), "each must be \"full\""),
        ("part", json!(["diffusers", "VQModel"]), "VQModel, which is not supported; it must be"),
        ("part", json!("VQModel"), "a list of a library and a class"),
        ("layer", json!(1), "'layer' is not a known key; did you mean 'layers'?"),
        ("quantization_config", json!({"quant_method": "gptq"}), "quantized weights are not read"),
        ("auto_map", json!({"AutoModel": "x.py"}), "'auto_map' is not supported"),
    ] {
        let mut bad = base.clone();
        bad[key] = value;
        let error = read(bad.clone()).expect_err(&bad.to_string());
        assert!(error.contains(words), "{bad}: {error}");
        for name in ["u64", "usize", "f64", "struct", "Outer"] {
            assert!(!error.contains(name), "{bad}: {error}");
        }
    }
    let error = read(json!({"kind": "flow"})).expect_err("incomplete");
    assert_eq!(error, "'size' is missing; it is a whole number, 0 or more");
    let error = read(json!({"size": 1})).expect_err("incomplete");
    assert_eq!(error, "'kind' is missing; it must be \"flow\"");
    let long = json!({"size": "x".repeat(1 << 20), "kind": "flow"});
    assert!(read(long).expect_err("no number").len() < 300);
}
