//! `llm-dit bench` on the CPU, with a model that is made of random numbers in no time.

use std::fs;

use serde_json::Value;

use crate::support::{Room, demo_model};

/// The least that can be measured, all of it.
const TINY: [&str; 14] = [
    "bench",
    "--shape",
    "tiny",
    "--device",
    "cpu",
    "--sizes",
    "64",
    "--runs",
    "1",
    "--warm-up",
    "0",
    "--forwards",
    "1",
    "--quiet",
];

/// Every row of such a run.
const ROWS: [&str; 13] = [
    "matmul 1024^3",
    "weights of the encoder",
    "weights of DiT and VAE",
    "encode 64 tokens",
    "encode 512 tokens",
    "forward 64x64 b1",
    "forward 64x64 b2",
    "forward 64x64 b4",
    "decode 64x64",
    "image 64x64 x1",
    "gateway 64x64 x1",
    "load encoder",
    "load dit",
];

/// Runs it and returns what stands in its JSON file and on stdout.
fn bench(room: &Room, args: &[&str]) -> (Value, String) {
    let output = room.run(&[&TINY[..], &["--json", "rows.json"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let json = serde_json::from_slice(&room.read("rows.json")).expect("JSON");
    (json, String::from_utf8(output.stdout).expect("text"))
}

fn names(json: &Value) -> Vec<String> {
    let rows = json["rows"].as_array().expect("rows").iter();
    rows.map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
}

fn row<'a>(json: &'a Value, name: &str) -> &'a Value {
    let rows = json["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn every_stage_has_its_row_and_comparisons_pair_by_name() {
    let room = Room::new();
    let others = "{\"name\": \"decode 64x64\", \"variant\": \"eager\", \"ms\": 1000000}\n\n\
                  {\"name\": \"decode 64x64\", \"variant\": \"other\", \"ms\": 2000000}\n\
                  {\"name\": \"forward 64x64 b1\", \"error\": \"out of memory\"}\n\
                  {\"name\": \"something else\", \"ms\": 1}\n";
    fs::write(room.path("others.jsonl"), others).expect("written");
    let (json, table) = bench(&room, &["--compare", "others.jsonl"]);
    assert_eq!(names(&json), [&ROWS[..], &["load vae"]].concat());
    assert_eq!(json["model"], "random tiny");
    assert_eq!(json["device"], "cpu");
    for name in ROWS.into_iter().chain(["load vae"]) {
        let row = row(&json, name);
        assert!(row["error"].is_null(), "{row}");
        assert!(name.starts_with("weights") || row["ms"].as_f64() > Some(0.0), "{row}");
        assert!(table.contains(name), "{table}");
    }
    let forward = row(&json, "forward 64x64 b4");
    assert!(forward["tflops"].as_f64() > Some(0.0), "{forward}");
    assert!(forward["share_of_matmul"].as_f64() > Some(0.0), "{forward}");
    assert!(row(&json, "load dit")["gb_per_s"].as_f64() > Some(0.0));
    // 1000 seconds are more than any machine takes.
    let pairs: Vec<&str> = table.lines().filter(|line| line.contains("000000.00")).collect();
    assert_eq!(pairs.len(), 2, "{table}");
    assert!(pairs[0].contains("0.000  eager") && pairs[1].contains("other"), "{table}");
    // The files that were loaded are gone.
    assert_eq!(room.files(), ["others.jsonl", "rows.json"]);
}

#[test]
fn flags_choose_what_runs() {
    let room = Room::new();
    let (json, _) = bench(&room, &["--only", "forward,vae", "--batches", "3"]);
    let expected = ["matmul 1024^3", "weights of DiT and VAE", "forward 64x64 b3", "decode 64x64"];
    assert_eq!(names(&json), expected);
    let (json, _) = bench(&room, &["--only", "encode"]);
    let expected =
        ["matmul 1024^3", "weights of the encoder", "encode 64 tokens", "encode 512 tokens"];
    assert_eq!(names(&json), expected);
}

#[test]
fn a_models_own_files_are_measured_too() {
    let room = Room::new();
    let model = demo_model();
    let args = ["--model-path", model.to_str().expect("text"), "--only", "load,encode"];
    let args =
        [&["bench", "--device", "cpu", "--runs", "1", "--warm-up", "0", "--json", "r"], &args[..]];
    let output = room.run(&args.concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&room.read("r")).expect("JSON");
    assert_eq!(json["model"], "demo");
    for name in ["load encoder", "load dit", "load vae", "encode 64 tokens"] {
        assert!(row(&json, name)["ms"].as_f64() > Some(0.0), "{name}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_or_told() {
    let room = Room::new();
    let said = room.fail(64, &["bench", "--only", "forward,decoding"]);
    assert!(said.contains("decoding") && said.contains("--only"), "{said}");
    let said = room.fail(64, &["bench", "--shape", "tiny", "--model-path", "."]);
    assert!(said.contains("--shape") && said.contains("--model-path"), "{said}");
    for flag in ["--sizes", "--batches", "--runs"] {
        room.fail(64, &["bench", flag, "many"]);
    }
    let said = room.fail(64, &["bench", "--sizes", "64,100"]);
    assert!(said.contains("100") && said.contains("16"), "{said}");
    room.fail(64, &["bench", "--json", "no/such/file"]);
    fs::write(room.path("bad.jsonl"), "{\"name\": \"x\", \"ms\": 1}\nten\n").expect("written");
    let said = room.fail(64, &["bench", "--compare", "bad.jsonl"]);
    assert!(said.contains("bad.jsonl:2"), "{said}");
    room.fail(64, &["bench", "--compare", "none.jsonl"]);
}
