//! How much memory loading takes at its peak, beside what the weights take when they are loaded.
//! Alone in its program, since the peak is the whole process's. Linux tells it, others may not.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::Command,
};

use candle_core::Device;
use llm_dit_proto::DType as Wire;
use llm_dit_tests::forms::{NativeNames, State, demo_file};
use llm_dit_z_image::load_dit;
use safetensors::Dtype;
use tempfile::TempDir;

/// What the issue allows.
const BOUND: f64 = 1.2;
/// How much wider than the demo model. Its 12 blocks then hold about 400 MB in f32.
const WIDER: usize = 4;

/// Says which form a child of this test is to load.
const FORM: &str = "LLM_DIT_TEST_FORM";

/// What the file's tensors are called, what they are stored in, what the model computes in.
const FORMS: [(&str, bool, Dtype, Wire); 5] = [
    ("f32 to f32", false, Dtype::F32, Wire::F32),
    ("bf16 to bf16", false, Dtype::BF16, Wire::Bf16),
    ("bf16 to f32", false, Dtype::BF16, Wire::F32),
    ("f32 to bf16", false, Dtype::F32, Wire::Bf16),
    ("native bf16 to bf16", true, Dtype::BF16, Wire::Bf16),
];

/// Each form in a process of its own: what one gave back to the allocator would hide in the next.
#[test]
fn the_peak_is_little_above_the_weights() {
    if let Ok(form) = env::var(FORM) {
        return load(FORMS.into_iter().find(|(name, ..)| *name == form).expect("a form"));
    }
    for (form, ..) in FORMS {
        let mut child = Command::new(env::current_exe().expect("this program"));
        let status = child.arg("--nocapture").env(FORM, form).status().expect("starts");
        assert!(status.success(), "{form}");
    }
}

fn load((form, native, stored, computed): (&str, bool, Dtype, Wire)) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("dit.safetensors");
    let shapes: BTreeMap<String, Vec<usize>> = State::read(&demo_file("transformer"))
        .0
        .into_iter()
        .map(|(name, stored)| (name.clone(), wide(&name, stored.shape)))
        .collect();
    let shapes = if native {
        let names = NativeNames::open().dit.into_iter();
        names
            .map(|(name, parts)| {
                let mut shape = shapes[&parts[0]].clone();
                shape[0] *= parts.len();
                (name, shape)
            })
            .collect()
    } else {
        shapes
    };
    let values = sparse(&path, &shapes, stored);
    let weights = (values * if computed == Wire::F32 { 4 } else { 2 }) as f64;
    let before = memory("VmRSS:");
    // Sets the peak back to what is in use now.
    fs::write("/proc/self/clear_refs", "5").expect("Linux takes it");
    let loaded = load_dit(&path, &Device::Cpu, Some(computed)).expect("loads");
    let peak = (memory("VmHWM:") - before) / weights;
    println!("{form:20} {:6.1} MB of weights, peak {peak:.3} of them", weights / 1e6);
    assert!(peak >= 0.95, "{form}: this measures something else");
    assert!(peak <= BOUND, "{form}: {peak:.3}");
    drop(loaded);
}

/// The demo model's shapes, wider; the modulation's input is 256 wide at most.
fn wide(name: &str, mut shape: Vec<usize>) -> Vec<usize> {
    let kept = |axis: usize| match name {
        "t_embedder.mlp.0.weight" | "t_embedder.mlp.0.bias" => true,
        "cap_embedder.0.weight" | "all_final_layer.2-1.linear.bias" => true,
        "all_x_embedder.2-1.weight" | "cap_embedder.1.weight" | "t_embedder.mlp.2.weight" => {
            axis == 1
        }
        "all_final_layer.2-1.linear.weight" | "x_pad_token" | "cap_pad_token" => axis == 0,
        _ => name.contains("norm_q") || name.contains("norm_k"),
    };
    for (axis, size) in shape.iter_mut().enumerate() {
        let adaln = match axis {
            0 => name.starts_with("t_embedder.mlp.2"),
            _ => name.contains("adaLN_modulation"),
        };
        if adaln {
            *size = 256;
        } else if !kept(axis) {
            *size *= WIDER;
        }
    }
    shape
}

/// A file of zeros that takes no room on the disk; returns how many values it has.
fn sparse(path: &Path, tensors: &BTreeMap<String, Vec<usize>>, dtype: Dtype) -> usize {
    let (name, bytes) = if dtype == Dtype::F32 { ("F32", 4) } else { ("BF16", 2) };
    let mut header = serde_json::Map::new();
    let mut values = 0;
    for (tensor, shape) in tensors {
        let from = values * bytes;
        values += shape.iter().product::<usize>();
        let entry = serde_json::json!({ "dtype": name, "shape": shape, "data_offsets": [from, values * bytes] });
        header.insert(tensor.clone(), entry);
    }
    let header = serde_json::Value::from(header).to_string();
    let mut file = File::create(path).expect("a file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    file.write_all(header.as_bytes()).expect("written");
    file.set_len((8 + header.len() + values * bytes) as u64).expect("room");
    values
}

/// A figure of this process, in bytes.
fn memory(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with(name)).expect("the figure");
    let kilobytes = line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok());
    kilobytes.expect("a number") * 1024.0
}
