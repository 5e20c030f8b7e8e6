use std::{collections::HashMap, path::PathBuf};

use tempfile::TempDir;

use candle_core::{DType, Tensor};

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
    assert_eq!(
        (module.name.as_str(), module.extent, module.rank),
        ("m", Extent::Matrix([3, 6]), 4)
    );
    assert_eq!(
        (module.alpha, module.scale, file.alpha(), file.rank()),
        (Some(1.0), 0.25, Some(1.0), 4)
    );
    let Delta::LowRank { up, down } = file.change(module, 1.0).expect("finite").delta else {
        panic!("a plain LoRA");
    };
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
    says(&[A, B, ("m.oft_blocks", &[3, 2, 2])], &["m.lora_A.weight", "m.oft_blocks"]);
    says(&[("m.oft_blocks", &[3, 2, 2, 1])], &["m.oft_blocks", "three axes"]);
    says(&[("m.oft_blocks", &[3, 2, 1])], &["m.oft_blocks", "(blocks, side, side)"]);
    says(&[("m.oft_blocks", &[3, 2, 2]), ("m.rescale", &[5, 1])], &["m.rescale", "6 values"]);
    says(&[("m.rescale", &[6, 1])], &["m.rescale", "oft_blocks"]);
    says(&[("m.oft_R.weight", &[3, 4])], &["m.oft_R.weight", "side"]);
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
    let error = file.change(&file.modules()[0], 1.0).expect_err("NaN");
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

#[test]
fn kinds_are_told_by_their_tensors() {
    let room = Room::new();
    let shape = |tensors: &[(&str, &[usize])]| {
        let file = room.open(tensors).expect("good");
        let module = &file.modules()[0];
        (module.extent, module.rank, module.scale)
    };
    let matrix = |outs, ins| Extent::Matrix([outs, ins]);
    let hada: [(&str, &[usize]); 4] = [
        ("m.hada_w1_a", &[6, 2]),
        ("m.hada_w1_b", &[2, 4]),
        ("m.hada_w2_a", &[6, 3]),
        ("m.hada_w2_b", &[3, 4]),
    ];
    assert_eq!(shape(&hada), (matrix(6, 4), 3, 1.0));
    let with_alpha = [&hada[..], &[("m.alpha", &[])]].concat();
    assert_eq!(shape(&with_alpha), (matrix(6, 4), 3, 0.5), "the first product's rank");
    let whole: [(&str, &[usize]); 3] =
        [("m.lokr_w1", &[2, 3]), ("m.lokr_w2", &[5, 7]), ("m.alpha", &[])];
    assert_eq!(shape(&whole), (matrix(10, 21), 0, 1.0), "no rank, so no alpha");
    let product: [(&str, &[usize]); 4] = [
        ("m.lokr_w1", &[2, 3]),
        ("m.lokr_w2_a", &[5, 4]),
        ("m.lokr_w2_b", &[4, 7]),
        ("m.alpha", &[]),
    ];
    assert_eq!(shape(&product), (matrix(10, 21), 4, 0.25));
    let dora = [A, B, ("m.dora_scale", &[3, 1])];
    assert_eq!(shape(&dora), (matrix(3, 6), 4, 1.0));
    let rows: [(&str, &[usize]); 3] =
        [("m.oft_blocks", &[3, 2, 2]), ("m.rescale", &[6, 1]), ("m.alpha", &[])];
    assert_eq!(shape(&rows), (Extent::Rows(6), 0, 1.0), "alpha is a bound, no factor");
    assert_eq!(shape(&[("m.oft_R.weight", &[5, 6])]), (Extent::Columns(20), 0, 1.0));
    assert_eq!(shape(&[("m.oft_R.weight", &[1, 3])]), (Extent::ColumnsBy(3), 0, 1.0));

    let says = |tensors: &[(&str, &[usize])]| room.open(tensors).expect_err("bad").to_string();
    assert!(says(&hada[..3]).contains("other factor, _b, is missing"));
    assert!(says(&hada[..2]).contains("hada_w2"));
    assert!(says(&whole[..1]).contains("lokr_w2"));
    assert!(says(&[A, B, whole[0], whole[1]]).contains("two ways"));
    assert!(
        says(&[("m.lokr_w1", &[2, 3]), ("m.lokr_w2", &[5, 7, 2])]).contains("must be a matrix")
    );
    assert!(says(&[("m.dora_scale", &[3, 1])]).contains("the factors"));
    assert!(says(&[A, B, ("m.dora_scale", &[4])]).contains("[3, 1] or [1, 6]"));
    let mut other = hada;
    other[2].1 = &[7, 3];
    assert!(says(&other).contains("two sizes"));
}

#[test]
fn settings_that_speak_of_dora_need_magnitudes() {
    let room = Room::new();
    let settings = [("lora_adapter_metadata", r#"{"transformer.use_dora": true}"#)];
    let open = |tensors: &[(&str, &[usize])]| {
        LoraFile::open(&room.write("x.safetensors", tensors, &settings), "x")
    };
    let error = open(&[A, B]).expect_err("none").to_string();
    assert!(error.contains("no lora_magnitude_vector"), "{error}");
    open(&[A, B, ("m.lora_magnitude_vector.weight", &[3])]).expect("a DoRA");
}

#[test]
fn factors_in_eight_bits_are_read() {
    let room = Room::new();
    let path = room.0.path().join("x.safetensors");
    // 1, -2, 0.5, 448 and 1, -2, 0.5, 57344.
    let e4m3 = [0x38u8, 0xc0, 0x30, 0x7e];
    let e5m2 = [0x3cu8, 0xc0, 0x38, 0x7b];
    let view = |dtype, shape: &[usize], data: &'static [u8]| {
        safetensors::tensor::TensorView::new(dtype, shape.to_vec(), data).expect("whole")
    };
    let up = view(safetensors::Dtype::F8_E4M3, &[4, 1], Box::leak(Box::new(e4m3)));
    let down = view(safetensors::Dtype::F8_E5M2, &[1, 4], Box::leak(Box::new(e5m2)));
    let tensors = [("m.lora_B.weight", up), ("m.lora_A.weight", down)];
    safetensors::serialize_to_file(tensors, None, &path).expect("writes");
    let file = LoraFile::open(&path, "x").expect("good");
    let change = file.change(&file.modules()[0], 1.0).expect("finite");
    let Delta::LowRank { up, down } = change.delta else { panic!("a plain LoRA") };
    let values = |x: Tensor| {
        let wide = x.to_dtype(DType::F32).and_then(|x| x.flatten_all());
        wide.and_then(|x| x.to_vec1::<f32>()).expect("values")
    };
    assert_eq!(values(up), [1.0, -2.0, 0.5, 448.0]);
    assert_eq!(values(down), [1.0, -2.0, 0.5, 57344.0]);
}
