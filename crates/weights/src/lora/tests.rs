use std::{collections::HashMap, path::PathBuf};

use tempfile::TempDir;

use super::*;

/// A folder to write LoRA files into.
struct Room(TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn write(
        &self,
        name: &str,
        tensors: &[(&str, &[usize])],
        metadata: &[(&str, &str)],
    ) -> PathBuf {
        let path = self.0.path().join(name);
        let tensors: Vec<(&str, Tensor)> = tensors
            .iter()
            .map(|(name, shape)| (*name, Tensor::ones(*shape, DType::F32, &DEVICE).expect("ones")))
            .collect();
        let metadata: HashMap<String, String> =
            metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        safetensors::serialize_to_file(tensors, Some(metadata), &path).expect("writes");
        path
    }

    fn open(&self, tensors: &[(&str, &[usize])]) -> Result<LoraFile, LoraError> {
        LoraFile::open(&self.write("x.safetensors", tensors, &[]), "x.safetensors")
    }
}

const A: (&str, &[usize]) = ("m.lora_A.weight", &[4, 6]);
const B: (&str, &[usize]) = ("m.lora_B.weight", &[3, 4]);

#[test]
fn a_pair_is_a_module_and_alpha_scales_it() {
    let room = Room::new();
    let file = room.open(&[A, B, ("m.alpha", &[])]).expect("good");
    let module = &file.modules()[0];
    assert_eq!((module.name.as_str(), module.outs, module.ins, module.rank), ("m", 3, 6, 4));
    assert_eq!(
        (module.alpha, module.scale, file.alpha(), file.rank()),
        (Some(1.0), 0.25, Some(1.0), 4)
    );
    let (up, down) = file.factors(module).expect("finite");
    assert_eq!((up.dims(), down.dims()), (&[3, 4][..], &[4, 6][..]));
    let plain = room.open(&[A, B]).expect("good");
    assert_eq!((plain.modules()[0].scale, plain.alpha()), (1.0, None));
}

#[test]
fn settings_in_the_header_or_beside_the_file_hold_alpha() {
    let room = Room::new();
    let header = r#"{"transformer.lora_alpha": 8, "transformer.r": 4, "transformer.alpha_pattern": {"n": 2}}"#;
    let more = [A, B, ("n.lora_A.weight", &[4, 6][..]), ("n.lora_B.weight", &[3, 4])];
    let path = room.write("x.safetensors", &more, &[("lora_adapter_metadata", header)]);
    let file = LoraFile::open(&path, "x").expect("good");
    let scales: Vec<f64> = file.modules().iter().map(|m| m.scale).collect();
    assert_eq!(scales, [2.0, 0.5]);

    let path = room.write("adapter_model.safetensors", &[A, B], &[]);
    let config = path.with_file_name("adapter_config.json");
    std::fs::write(config, r#"{"lora_alpha": 6, "use_rslora": true, "r": 4}"#).expect("writes");
    assert_eq!(LoraFile::open(&path, "x").expect("good").modules()[0].scale, 3.0);
}

#[test]
fn what_is_wrong_is_named() {
    let room = Room::new();
    let says = |tensors: &[(&str, &[usize])], words: &[&str]| {
        let message = room.open(tensors).expect_err("bad").to_string();
        for word in ["x.safetensors"].iter().chain(words) {
            assert!(message.contains(word), "{word}: {message}");
        }
    };
    says(&[A], &["m.lora_A.weight", "up (or B)"]);
    says(&[A, ("m.lora_B.weight", &[3, 5])], &["rank 5", "rank 4"]);
    says(&[A, B, ("m.dora_scale", &[3])], &["m.dora_scale", "DoRA"]);
    says(&[A, ("m.lora_B.weight", &[3, 4, 3, 3])], &["[3, 4, 3, 3]"]);
    says(&[A, B, ("m.alpha", &[2])], &["m.alpha", "one number"]);
    says(&[A, B, ("m.lora_down.weight", &[4, 6])], &["m.lora_A.weight", "m.lora_down.weight"]);
}

#[test]
fn strangers_are_kept_by_name() {
    let room = Room::new();
    let file = room.open(&[A, B, ("text_encoder.q.lora_A.weight", &[1, 1]), ("step", &[1])]);
    assert_eq!(file.expect("good").unknown_keys(), ["step", "text_encoder.q.lora_A.weight"]);
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let room = Room::new();
    let path = room.0.path().join("x.safetensors");
    let down = Tensor::full(f32::NAN, (4, 6), &DEVICE).expect("a tensor");
    let up = Tensor::ones((3, 4), DType::F32, &DEVICE).expect("ones");
    let tensors = vec![("m.lora_A.weight", down), ("m.lora_B.weight", up)];
    safetensors::serialize_to_file(tensors, None, &path).expect("writes");
    let file = LoraFile::open(&path, "x").expect("the header is good");
    let error = file.factors(&file.modules()[0]).expect_err("NaN");
    assert!(matches!(&error, LoraError::NotFinite { key, .. } if key == "m.lora_A.weight"));
}

#[test]
fn files_that_are_not_safetensors_are_refused() {
    let room = Room::new();
    let open = |name: &str, bytes: &[u8]| {
        let path = room.0.path().join(name);
        std::fs::write(&path, bytes).expect("writes");
        LoraFile::open(&path, name).expect_err("bad").to_string()
    };
    assert!(open("x.bin", b"PK").contains("can run code"));
    for bytes in [&b""[..], b"{}", b"\xff\xff\xff\xff\xff\xff\xff\xff{}", b"\x02\0\0\0\0\0\0\0[]"] {
        assert!(open("x.safetensors", bytes).contains("not valid"), "{bytes:?}");
    }
    // Cut short.
    let whole = std::fs::read(room.write("y.safetensors", &[A, B], &[])).expect("reads");
    assert!(open("x.safetensors", &whole[..whole.len() - 4]).contains("truncated"));
    let missing = LoraFile::open(&room.0.path().join("z"), "z").expect_err("missing");
    assert!(matches!(missing, LoraError::NotFound { .. }));
    let folder = LoraFile::open(room.0.path(), "f").expect_err("a folder");
    assert!(matches!(folder, LoraError::Invalid { .. } | LoraError::Io { .. }), "{folder}");
}
