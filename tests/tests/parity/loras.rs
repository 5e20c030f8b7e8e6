//! LoRAs of every spelling against diffusers' `load_lora_weights` and `fuse_lora`, in float32 on
//! the tiny model.
//!
//! `tests/oracle/lora_goldens.py` makes the files and what each leads to.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

use candle_core::{DType, Device, Tensor};
use diffusion_service::engine::{ActiveLora, LoraChoice};
use llm_dit_proto::DType as Wire;
use llm_dit_tests::goldens::{Goldens, relative_error};
use llm_dit_weights::{Checkpoint, LoadError, Overlay, Packing, PartFiles, lora::LoraError};
use llm_dit_z_image::{
    dit::{Dit, linear_layers, names::naming},
    load_dit, read_loras,
};
use tempfile::TempDir;

const BOUND: f64 = 1e-4;

fn dit() -> Dit {
    load_dit(&Goldens::tiny().join("transformer"), &Device::Cpu, Some(Wire::F32)).expect("tiny")
}

fn golden(name: &str, scale: f32) -> LoraChoice {
    choice(Goldens::folder().join("lora").join(format!("{name}.safetensors")), scale)
}

fn choice(path: PathBuf, scale: f32) -> LoraChoice {
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    LoraChoice {
        name,
        path,
        scale,
        trigger_words: String::new(),
        blocks: Default::default(),
        pass: Default::default(),
    }
}

fn apply(dit: &mut Dit, choices: &[LoraChoice]) -> Result<Vec<ActiveLora>, LoadError> {
    let (active, overlay) = read_loras(choices, dit.config())?;
    dit.set_overlay(Arc::new(overlay))?;
    Ok(active)
}

fn clear(dit: &mut Dit) {
    dit.set_overlay(Arc::default()).expect("the checkpoint as it is");
}

fn forward(dit: &Dit, goldens: &Goldens) -> Vec<f32> {
    let latents = goldens.tensor("latents");
    let size = (latents.dims()[1], latents.dims()[2]);
    let conditioning = dit.condition(&[goldens.tensor("caption")], &[size]).expect("a caption");
    let time = goldens.values("t")[0];
    let out = dit.forward(&[latents], &[time], &conditioning).expect("a forward");
    out[0].flatten_all().and_then(|x| x.to_vec1()).expect("f32")
}

/// A file of our own making: `key` to shape and value.
fn write(room: &TempDir, name: &str, tensors: &[(&str, &[usize], f32)]) -> PathBuf {
    let path = room.path().join(name);
    let tensors = tensors.iter().map(|(key, shape, value)| {
        (*key, Tensor::full(*value, *shape, &Device::Cpu).expect("a tensor"))
    });
    safetensors::serialize_to_file(tensors.collect::<Vec<_>>(), None, &path).expect("writes");
    path
}

#[test]
fn every_spelling_is_what_diffusers_makes_of_it() {
    let goldens = Goldens::open("lora.safetensors");
    let mut dit = dit();
    let plain = relative_error(&forward(&dit, &goldens), &goldens.values("out"));
    assert!(plain <= BOUND, "without a LoRA: {plain}");
    let mut names: Vec<String> = goldens.names();
    names.retain(|name| name.starts_with("out_") && name != "out_both");
    names.sort();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        let expected = goldens.values(&name);
        let active = apply(&mut dit, &[golden(&name["out_".len()..], 1.0)]).expect(&name);
        assert!(active[0].unmatched.is_empty(), "{name}: {:?}", active[0].unmatched);
        let error = relative_error(&forward(&dit, &goldens), &expected);
        let change = relative_error(&goldens.values("out"), &expected);
        println!("{name}: {error:.1e} from diffusers, {change:.2} from no LoRA");
        assert!(error <= BOUND, "{name}: {error}");
        assert!(change > 100.0 * BOUND, "{name} would pass unread: {change}");
    }
}

#[test]
fn several_are_summed_each_with_its_scale() {
    let goldens = Goldens::open("lora.safetensors");
    let mut dit = dit();
    let both = [golden("kohya", 0.7), golden("diffusion_model", -0.4)];
    let active = apply(&mut dit, &both).expect("both");
    let matrices = linear_layers(dit.config()).len();
    assert_eq!(active.iter().map(|lora| lora.matrices).collect::<Vec<_>>(), [matrices; 2]);
    let error = relative_error(&forward(&dit, &goldens), &goldens.values("out_both"));
    println!("two at once: {error:.1e}");
    assert!(error <= BOUND, "{error}");
}

/// Half the distance of neighbours in bf16, which has 8 significant bits.
fn half_step(value: f32) -> f32 {
    2f32.powi(value.abs().log2().floor() as i32 - 8)
}

#[test]
fn in_bf16_the_sum_is_rounded_once() {
    let goldens = Goldens::open("lora.safetensors");
    let stem = "diffusion_pytorch_model";
    let part = PartFiles::find(&Goldens::tiny(), "transformer", stem, None);
    let open = |dtype| {
        Checkpoint::open(&part, naming, &Device::Cpu, dtype, Packing::Expanded).expect("tiny")
    };
    let weights = open(DType::BF16);
    let both = [golden("kohya", 0.7), golden("diffusion_model", -0.4)];
    let (_, overlay) = read_loras(&both, dit().config()).expect("both");
    let fused = weights.with_overlay(Arc::new(overlay));
    for module in ["layers.1.attention.to_k", "layers.0.feed_forward.w2"] {
        let exact = goldens.tensor(&format!("both_{module}"));
        let name = format!("{module}.weight");
        let values = |x: Tensor| {
            let wide = x.to_dtype(DType::F32).and_then(|x| x.flatten_all());
            wide.and_then(|x| x.to_vec1::<f32>()).expect("values")
        };
        let ours = values(fused.get(&name, exact.dims()).expect("fused"));
        let exact_values = values(exact.clone());
        let worst = |values: &[f32]| {
            // The sums themselves may differ in the last bits of an f32 near 1.
            let apart = |(v, e): (&f32, &f32)| ((v - e).abs() - 1e-7).max(0.0) / half_step(*e);
            values.iter().zip(&exact_values).map(apart).fold(0f32, f32::max)
        };
        // What comes of rounding the checkpoint first and the sum again.
        let base = values(weights.get(&name, exact.dims()).expect("plain"));
        let full = open(DType::F32);
        let full = values(full.get(&name, exact.dims()).expect("plain"));
        let twice: Vec<f32> = (0..base.len())
            .map(|i| half::bf16::from_f32(base[i] + (exact_values[i] - full[i])).to_f32())
            .collect();
        println!("{module}: {} half steps, rounded twice {}", worst(&ours), worst(&twice));
        assert!(worst(&ours) <= 1.001, "{module}: {}", worst(&ours));
        assert!(worst(&twice) > 1.1, "the test cannot tell the difference in {module}");
    }
}

#[test]
fn taking_loras_away_restores_every_bit() {
    let goldens = Goldens::open("lora.safetensors");
    let mut dit = dit();
    let before = forward(&dit, &goldens);
    for name in ["diffusers", "kohya_native_top", "native_fused"] {
        apply(&mut dit, &[golden(name, 1.0), golden("dots", 0.3)]).expect(name);
        assert_ne!(forward(&dit, &goldens), before, "{name}");
        clear(&mut dit);
        assert_eq!(forward(&dit, &goldens), before, "{name}");
    }
    // In place of others means as if those had never been.
    apply(&mut dit, &[golden("diffusers", 1.0)]).expect("one");
    apply(&mut dit, &[golden("bare", 1.0)]).expect("another");
    let replaced = forward(&dit, &goldens);
    clear(&mut dit);
    apply(&mut dit, &[golden("bare", 1.0)]).expect("the other alone");
    assert_eq!(forward(&dit, &goldens), replaced);
}

#[test]
fn a_change_that_fails_midway_is_taken_back() {
    let goldens = Goldens::open("lora.safetensors");
    let room = tempfile::tempdir().expect("a folder");
    // The last part is loaded last, when the others have been replaced already.
    let (down, up) =
        ("layers.2.attention.to_q.lora_A.weight", "layers.2.attention.to_q.lora_B.weight");
    let huge = write(&room, "huge.safetensors", &[(down, &[1, 48], 1e30), (up, &[48, 1], 1e30)]);
    let mut dit = dit();
    apply(&mut dit, &[golden("bare", 0.5)]).expect("good");
    let before = forward(&dit, &goldens);
    let error =
        apply(&mut dit, &[golden("diffusers", 1.0), choice(huge, 1.0)]).expect_err("too large");
    assert!(
        matches!(&error, LoadError::Overflow { name } if name == "layers.2.attention.to_q.weight"),
        "{error}"
    );
    assert_eq!(forward(&dit, &goldens), before);
    clear(&mut dit);
    let error = relative_error(&forward(&dit, &goldens), &goldens.values("out"));
    assert!(error <= BOUND, "{error}");
}

#[test]
fn keys_that_fit_nothing_are_named_and_the_rest_is_applied() {
    let room = tempfile::tempdir().expect("a folder");
    let file = write(
        &room,
        "x.safetensors",
        &[
            ("transformer.layers.0.attention.to_q.lora_A.weight", &[2, 48], 0.1),
            ("transformer.layers.0.attention.to_q.lora_B.weight", &[48, 2], 0.1),
            ("transformer.layers.99.attention.to_q.lora_A.weight", &[2, 48], 0.1),
            ("transformer.layers.99.attention.to_q.lora_B.weight", &[48, 2], 0.1),
            ("text_encoder.layers.0.mlp.up_proj.lora_A.weight", &[2, 8], 0.1),
            ("text_encoder.layers.0.mlp.up_proj.lora_B.weight", &[8, 2], 0.1),
        ],
    );
    let active = apply(&mut dit(), &[choice(file, 1.0)]).expect("some of it fits");
    assert_eq!(active[0].matrices, 1);
    assert_eq!(
        active[0].unmatched,
        [
            "text_encoder.layers.0.mlp.up_proj.lora_A.weight",
            "text_encoder.layers.0.mlp.up_proj.lora_B.weight",
            "transformer.layers.99.attention.to_q.lora_A.weight",
        ]
    );
}

#[test]
fn a_file_for_another_model_is_refused_by_name() {
    let goldens = Goldens::open("lora.safetensors");
    let room = tempfile::tempdir().expect("a folder");
    let mut dit = dit();
    let before = forward(&dit, &goldens);
    let mut refused = |name: &str, tensors: &[(&str, &[usize], f32)]| {
        let path = write(&room, name, tensors);
        let error = apply(&mut dit, &[golden("bare", 1.0), choice(path, 1.0)]).expect_err(name);
        assert_eq!(forward(&dit, &goldens), before, "nothing has changed");
        match error {
            LoadError::Lora(error) => error,
            other => panic!("{other}"),
        }
    };
    let none = refused(
        "flux.safetensors",
        &[
            ("transformer.single_blocks.0.linear1.lora_A.weight", &[2, 48], 0.1),
            ("transformer.single_blocks.0.linear1.lora_B.weight", &[48, 2], 0.1),
        ],
    );
    assert!(matches!(none, LoraError::NoMatch { .. }));
    let none = none.to_string();
    for words in ["flux.safetensors", "single_blocks.0.linear1", "layers.0."] {
        assert!(none.contains(words), "{words}: {none}");
    }
    let shape = refused(
        "wide.safetensors",
        &[
            ("diffusion_model.layers.0.attention.qkv.lora_A.weight", &[2, 48], 0.1),
            ("diffusion_model.layers.0.attention.qkv.lora_B.weight", &[147, 2], 0.1),
        ],
    )
    .to_string();
    assert!(shape.contains("[147, 48]") && shape.contains("[144, 48]"), "{shape}");
    let twice = refused(
        "twice.safetensors",
        &[
            ("diffusion_model.layers.0.attention.qkv.lora_A.weight", &[2, 48], 0.1),
            ("diffusion_model.layers.0.attention.qkv.lora_B.weight", &[144, 2], 0.1),
            ("diffusion_model.layers.0.attention.to_q.lora_A.weight", &[2, 48], 0.1),
            ("diffusion_model.layers.0.attention.to_q.lora_B.weight", &[48, 2], 0.1),
        ],
    );
    assert!(matches!(twice, LoraError::Twice { .. }), "{twice}");
}

/// The same change under other spellings of its keys.
#[test]
fn spellings_with_more_underscores_and_prefixes_are_the_same_change() {
    let goldens = Goldens::open("lora.safetensors");
    let room = tempfile::tempdir().expect("a folder");
    let mut dit = dit();
    let mut out = |name: &str, prefix: &str, module: &str| {
        let key = |factor: &str| format!("{prefix}{module}.{factor}.weight");
        let (down, up) = (key("lora_down"), key("lora_up"));
        let file = write(&room, name, &[(&down, &[2, 48], 0.1), (&up, &[48, 2], 0.2)]);
        let active = apply(&mut dit, &[choice(file, 1.0)]).expect(&down);
        assert_eq!((active[0].matrices, &active[0].unmatched), (1, &vec![]), "{down}");
        forward(&dit, &goldens)
    };
    let expected = out("plain.safetensors", "", "layers.0.attention.to_q");
    for (prefix, module) in [
        ("lora_unet__", "layers_0_attention_to_q"),
        ("lora_unet__", "layers__0__attention__to_q"),
        ("lora_transformer__", "layers_0_attention_to_q"),
        ("lycoris__", "layers_0_attention_to_q"),
        ("base_model.model.transformer.", "layers.0.attention.to_q"),
        ("base_model.model.diffusion_model.", "layers.0.attention.to_q"),
        ("lora_unet_model_diffusion_model_", "layers_0_attention_to_q"),
        ("_orig_mod.", "layers.0.attention.to_q"),
        ("module.", "layers.0.attention.to_q"),
        ("unet.", "layers.0.attention.to.q"),
    ] {
        let name = format!("x{}.safetensors", prefix.len() + module.len());
        assert!(out(&name, prefix, module) == expected, "{prefix}{module}");
    }
}

/// Differences of whole tensors, against a checkpoint that has them in it.
#[test]
fn differences_are_added_to_any_tensor() {
    let goldens = Goldens::open("lora.safetensors");
    let room = tempfile::tempdir().expect("a folder");
    let step = |name: &str, value: f32, shape: &[usize]| {
        // Not the same everywhere, and no sum that f32 would round.
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| value * (i % 3) as f32).collect();
        (name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor"))
    };
    let changes = [
        ("diffusion_model.layers.0.attention_norm1.diff", "layers.0.attention_norm1.weight", 48),
        ("lora_unet__layers_1_attention_q_norm.diff", "layers.1.attention.norm_q.weight", 24),
        ("transformer.noise_refiner.0.ffn_norm2.w_norm", "noise_refiner.0.ffn_norm2.weight", 48),
        ("lora_unet_cap_embedder_0.diff", "cap_embedder.0.weight", 40),
        ("diffusion_model.cap_embedder.1.diff_b", "cap_embedder.1.bias", 48),
        ("diffusion_model.final_layer.linear.diff_b", "all_final_layer.2-1.linear.bias", 64),
        ("diffusion_model.x_pad_token.diff", "x_pad_token", 48),
    ];
    let mut file: Vec<(String, Tensor)> =
        changes.iter().map(|(key, _, width)| step(key, 0.25, &[*width])).collect();
    file.push(step("diffusion_model.layers.0.attention.qkv.diff", 0.125, &[144, 48]));
    file.push(step("diffusion_model.layers.2.feed_forward.w2.diff", 0.125, &[48, 128]));
    let path = room.path().join("differences.safetensors");
    safetensors::serialize_to_file(file.clone(), None, &path).expect("writes");

    // The same, baked in with half the scale.
    let from = Goldens::tiny().join("transformer");
    let mut state = candle_core::safetensors::load(
        from.join("diffusion_pytorch_model.safetensors"),
        &Device::Cpu,
    )
    .expect("the tiny model");
    let mut bake = |name: &str, change: &Tensor| {
        let base = &state[name];
        let change = change.reshape(base.shape()).expect("fits");
        let sum = (base.to_dtype(DType::F32).expect("f32") + (change * 0.5).expect("half"))
            .expect("a sum");
        state.insert(name.to_owned(), sum);
    };
    for ((_, name, _), (_, change)) in changes.iter().zip(&file) {
        bake(name, change);
    }
    for (index, name) in ["to_q", "to_k", "to_v"].into_iter().enumerate() {
        let rows = file[7].1.narrow(0, 48 * index, 48).expect("a third");
        bake(&format!("layers.0.attention.{name}.weight"), &rows);
    }
    bake("layers.2.feed_forward.w2.weight", &file[8].1);
    let baked = room.path().join("transformer");
    fs::create_dir(&baked).expect("a folder");
    fs::copy(from.join("config.json"), baked.join("config.json")).expect("copied");
    candle_core::safetensors::save(&state, baked.join("diffusion_pytorch_model.safetensors"))
        .expect("written");
    let baked = load_dit(&baked, &Device::Cpu, Some(Wire::F32)).expect("baked");

    let mut dit = dit();
    let before = forward(&dit, &goldens);
    let active = apply(&mut dit, &[choice(path, 0.5)]).expect("fits");
    assert_eq!((active[0].matrices, &active[0].unmatched), (7 + 3 + 1, &vec![]));
    let changed = forward(&dit, &goldens);
    assert!(changed == forward(&baked, &goldens), "to the last bit");
    assert!(relative_error(&changed, &before) > 100.0 * BOUND, "would pass unread");
    clear(&mut dit);
    assert_eq!(forward(&dit, &goldens), before);
}

/// A pair and a norm's difference in one file: the case of `lora-with-norm-diff`.
#[test]
fn a_difference_does_not_cost_the_pairs_beside_it() {
    let room = tempfile::tempdir().expect("a folder");
    let pair = |more: (&str, &[usize], f32)| {
        let name = format!("x{}.safetensors", more.0.len() + more.1[0]);
        let (a, b) =
            ("layers.0.attention.to_q.lora_A.weight", "layers.0.attention.to_q.lora_B.weight");
        write(&room, &name, &[(a, &[2, 48], 0.1), (b, &[48, 2], 0.1), more])
    };
    let apply = |more| apply(&mut dit(), &[choice(pair(more), 1.0)]);
    let both = apply(("layers.0.attention_norm1.diff", &[48], 0.1)).expect("both");
    assert_eq!((both[0].matrices, &both[0].unmatched), (2, &vec![]));
    let stranger = apply(("layers.0.attention.to_q.diff_b", &[48], 0.1)).expect("the pair");
    assert_eq!(stranger[0].matrices, 1, "to_q has no bias");
    assert_eq!(stranger[0].unmatched, ["layers.0.attention.to_q.diff_b"]);
    let error = apply(("layers.0.attention_norm1.diff", &[47], 0.1)).expect_err("too short");
    let error = error.to_string();
    for words in ["'layers.0.attention_norm1.diff'", "[47]", "[48]"] {
        assert!(error.contains(words), "{words}: {error}");
    }
}

/// Every matrix that a checkpoint has is one that a LoRA can change, and under our name for it.
#[test]
fn the_list_of_layers_is_the_checkpoints() {
    let file = Goldens::tiny().join("transformer/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(file).expect("the tiny model");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let matrices: HashMap<String, Vec<usize>> = tensors
        .iter()
        .filter(|(name, view)| name.ends_with(".weight") && view.shape().len() == 2)
        .map(|(name, view)| (name.replace(".weight", ""), view.shape().to_vec()))
        .collect();
    let ours = linear_layers(dit().config()).into_iter().map(|(name, s)| (name, s.to_vec()));
    assert_eq!(ours.collect::<HashMap<_, _>>(), matrices);
}

/// An overlay that names what no part owns leaves the model alone.
#[test]
fn an_empty_change_reloads_nothing_and_changes_nothing() {
    let goldens = Goldens::open("lora.safetensors");
    let mut dit = dit();
    let before = forward(&dit, &goldens);
    let active = apply(&mut dit, &[golden("diffusers", 0.0)]).expect("a scale of 0");
    assert!(active[0].matrices > 0 && dit.overlay().is_empty());
    dit.set_overlay(Arc::new(Overlay::default())).expect("nothing to do");
    assert_eq!(forward(&dit, &goldens), before);
}
