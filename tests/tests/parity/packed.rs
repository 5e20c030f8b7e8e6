//! Packed weights: every type expanded as gguf-py expands it, to the last bit, and the files that hold
//! them.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use llm_dit_kernels::Matrix;
use llm_dit_tests::goldens::{Goldens, relative_error};
use llm_dit_weights::{Checkpoint, Packing, Part, PartFiles, Weights};

fn naming(names: &[&str]) -> Vec<Vec<Part>> {
    names.iter().map(|name| vec![Part::whole(*name)]).collect()
}

fn open(name: &str, dtype: DType, packing: Packing) -> Weights {
    let part = PartFiles::File(Goldens::folder().join("packed").join(name));
    Checkpoint::open(&part, naming, &Device::Cpu, dtype, packing).expect("a file of the oracle")
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().and_then(|x| x.to_dtype(DType::F32)?.to_vec1::<f32>());
    values.expect("values").into_iter().map(f32::to_bits).collect()
}

/// Every tensor of a file, whole and as a matrix that stays packed, is what the oracle has.
fn assert_equal(file: &str, oracle: &str, which: impl Fn(&str) -> bool) {
    let oracle = Goldens::open(oracle);
    let names = oracle.names();
    let names: Vec<&String> = names.iter().filter(|name| which(name)).collect();
    assert!(names.len() >= 13, "{names:?}");
    for name in names {
        let expected = oracle.tensor(name);
        let (rows, columns) = expected.dims2().expect("a matrix");
        let wide: Vec<f32> = oracle.values(name);
        for (dtype, rounded) in [
            (DType::F32, wide.clone()),
            (DType::BF16, wide.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()),
            (DType::F16, wide.iter().map(|&x| f16::from_f32(x).to_f32()).collect()),
        ] {
            let rounded: Vec<u32> = rounded.into_iter().map(f32::to_bits).collect();
            let expanded = open(file, dtype, Packing::Expanded);
            let tensor = expanded.get(name, &[rows, columns]).expect("a tensor");
            assert_eq!(bits(&tensor), rounded, "{name} in {dtype:?}");
            let packed = open(file, dtype, Packing::Packed);
            let matrix = packed.matrix(name, &[rows, columns]).expect("a matrix");
            let all = matrix.dequantize(0..rows).expect("values");
            assert_eq!(bits(&all), rounded, "{name} packed in {dtype:?}");
            let x = Tensor::randn(0f32, 1., (3, columns), &Device::Cpu).expect("values");
            let x = x.to_dtype(dtype).expect("rounded");
            let products = [&Matrix::Dense(tensor), &matrix].map(|m| m.forward(&x));
            let [dense, packed] = products.map(|product| bits(&product.expect("a product")));
            assert_eq!(dense, packed, "a product with {name} in {dtype:?}");
            let table = open(file, dtype, Packing::Packed);
            let table = table.table(name, &[rows, columns]).expect("a table");
            let last = Tensor::new(&[rows as u32 - 1, 0], &Device::Cpu).expect("ids");
            let read = table.select_rows(&last).expect("two rows");
            let two = [&rounded[(rows - 1) * columns..], &rounded[..columns]].concat();
            assert_eq!(bits(&read), two, "rows of {name} in {dtype:?}");
        }
    }
}

#[test]
fn every_type_of_ggml_is_what_gguf_py_makes_of_it() {
    assert_equal("blocks.gguf", "packed/blocks.safetensors", |_| true);
}

#[test]
fn every_layout_of_comfyui_is_what_comfy_kitchen_makes_of_it() {
    let is_rotated = |name: &str| name.starts_with("convrot");
    assert_equal("comfy.safetensors", "packed/comfy_values.safetensors", |name| !is_rotated(name));
    // The order in which a rotation is summed is each program's own.
    let oracle = Goldens::open("packed/comfy_values.safetensors");
    let weights = open("comfy.safetensors", DType::F32, Packing::Expanded);
    for name in oracle.names().iter().filter(|name| is_rotated(name)) {
        let expected = oracle.tensor(name);
        let ours = weights.get(name, expected.dims()).expect("a tensor");
        let ours: Vec<f32> = ours.flatten_all().and_then(|x| x.to_vec1()).expect("values");
        let error = relative_error(&ours, &oracle.values(name));
        assert!(error < 1e-6, "{name}: {error}");
        let packed = open("comfy.safetensors", DType::F32, Packing::Packed);
        let (rows, columns) = expected.dims2().expect("a matrix");
        let packed = packed.matrix(name, &[rows, columns]).expect("a matrix");
        let packed: Vec<f32> =
            packed.dequantize(0..rows).and_then(|x| x.flatten_all()?.to_vec1()).expect("values");
        assert_eq!(packed, ours, "{name}");
    }
}

#[test]
fn what_a_file_says_of_itself_is_read() {
    let weights = open("blocks.gguf", DType::F32, Packing::Auto);
    let metadata = weights.metadata().expect("a GGUF file");
    assert_eq!(metadata.architecture(), Some("none"));
    assert_eq!(metadata.get("none.block_count").and_then(|v| v.whole()), Some(7));
    let epsilon = metadata.get("none.epsilon").and_then(|v| v.float());
    assert_eq!(epsilon, Some(f64::from(1e-6f32)));
    assert_eq!(metadata.get("none.numbers").and_then(|v| v.wholes()), Some(vec![3, 1, 2]));
    assert!(metadata.get("none.words").is_some());
}
