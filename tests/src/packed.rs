//! Files of packed weights: GGUF, and ComfyUI's layouts in safetensors.

use std::{collections::BTreeMap, fs, path::Path};

use half::{bf16, f16};
use llm_dit_kernels::Format;
use safetensors::Dtype;

use crate::forms::{State, Stored};

/// Numbers that look random and are the same in each run.
pub struct Random(pub u64);

impl Random {
    /// The next bits.
    pub fn bits(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// About normal.
    pub fn normal(&mut self, deviation: f32) -> f32 {
        let mut uniform = || (self.bits() & 0xffff) as f32 / 65536.0 - 0.5;
        deviation * 2.0 * (uniform() + uniform() + uniform())
    }
}

/// A value of a key.
#[derive(Clone, Debug)]
pub enum Pair {
    Whole(u32),
    Float(f32),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<i32>),
}

/// A GGUF file.
#[derive(Clone, Debug, Default)]
pub struct Gguf {
    pub pairs: Vec<(String, Pair)>,
    pub tensors: Vec<(String, Vec<usize>, Format, Vec<u8>)>,
}

impl Gguf {
    /// # Panics
    /// When the disk is full.
    pub fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).expect("written");
    }

    /// Of its tensors.
    pub fn names(&self) -> Vec<String> {
        self.tensors.iter().map(|(name, ..)| name.clone()).collect()
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let entries = self.tensors.iter().map(|(name, shape, format, data)| {
            (name.as_str(), shape.as_slice(), *format, data.len())
        });
        let mut file = header(&self.pairs, entries);
        for (.., data) in &self.tensors {
            file.extend(data);
            file.resize(file.len().next_multiple_of(32), 0);
        }
        file
    }
}

/// All that comes before the data: name, shape, format and bytes of each tensor. Each begins at a
/// multiple of 32.
pub fn header<'a>(
    pairs: &[(String, Pair)],
    entries: impl ExactSizeIterator<Item = (&'a str, &'a [usize], Format, usize)>,
) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((entries.len() as u64).to_le_bytes());
    file.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        text(&mut file, key);
        value.write(&mut file);
    }
    let mut offset = 0;
    for (name, shape, format, bytes) in entries {
        text(&mut file, name);
        file.extend((shape.len() as u32).to_le_bytes());
        for axis in shape.iter().rev() {
            file.extend((*axis as u64).to_le_bytes());
        }
        file.extend(number(format).to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        offset += bytes.next_multiple_of(32);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file
}

impl Pair {
    fn write(&self, file: &mut Vec<u8>) {
        let kind = |kind: u32| kind.to_le_bytes();
        match self {
            Self::Whole(number) => file.extend([kind(4), number.to_le_bytes()].concat()),
            Self::Float(number) => file.extend([kind(6), number.to_le_bytes()].concat()),
            Self::Text(value) => {
                file.extend(kind(8));
                text(file, value);
            }
            Self::Texts(values) => {
                file.extend([kind(9), kind(8)].concat());
                file.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(file, value));
            }
            Self::Numbers(values) => {
                file.extend([kind(9), kind(5)].concat());
                file.extend((values.len() as u64).to_le_bytes());
                file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
}

fn text(file: &mut Vec<u8>, value: &str) {
    file.extend((value.len() as u64).to_le_bytes());
    file.extend(value.as_bytes());
}

/// ggml's number of a type.
fn number(format: Format) -> u32 {
    let numbers = [0, 1, 30, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23u32];
    let at = Format::GGML.iter().position(|known| *known == format);
    numbers[at.expect("a type of ggml")]
}

/// Values in a format of ggml. What has a simple rule is rounded; K types get random codes with scales
/// of the right size.
pub fn pack(format: Format, values: &[f32], random: &mut Random) -> Vec<u8> {
    let (count, bytes) = format.block();
    let blocks = values.chunks_exact(count);
    blocks.flat_map(|values| block(format, bytes, values, random)).collect()
}

fn block(format: Format, bytes: usize, values: &[f32], random: &mut Random) -> Vec<u8> {
    let half = |x: f32| f16::from_f32(x).to_le_bytes();
    let far = |least: bool| {
        let order = |a: &&f32, b: &&f32| if least { b.total_cmp(a) } else { a.total_cmp(b) };
        values.iter().max_by(order).copied().unwrap_or(0.0)
    };
    let (low, high) = (far(true), far(false));
    let largest = if low.abs() > high.abs() { low } else { high };
    let codes = |d: f32, m: f32, most: f32| -> Vec<u8> {
        let d = if d == 0.0 { 1.0 } else { d };
        values.iter().map(|x| ((x - m) / d).round().clamp(0.0, most) as u8).collect()
    };
    let nibbles = |codes: &[u8]| -> Vec<u8> {
        (0..16).map(|i| codes[i] & 15 | (codes[i + 16] & 15) << 4).collect()
    };
    let fifth = |codes: &[u8]| {
        let bits = codes.iter().enumerate().map(|(i, code)| u32::from(code >> 4 & 1) << i);
        bits.fold(0, |all, bit| all | bit).to_le_bytes()
    };
    match format {
        Format::F32 => values[0].to_le_bytes().to_vec(),
        Format::F16 => half(values[0]).to_vec(),
        Format::Bf16 => bf16::from_f32(values[0]).to_le_bytes().to_vec(),
        Format::Q4_0 => {
            let d = largest / -8.0;
            [&half(d)[..], &nibbles(&codes(d, -8.0 * d, 15.0))].concat()
        }
        Format::Q4_1 => {
            let d = (high - low) / 15.0;
            [&half(d)[..], &half(low), &nibbles(&codes(d, low, 15.0))].concat()
        }
        Format::Q5_0 => {
            let d = largest / -16.0;
            let codes = codes(d, -16.0 * d, 31.0);
            [&half(d)[..], &fifth(&codes), &nibbles(&codes)].concat()
        }
        Format::Q5_1 => {
            let d = (high - low) / 31.0;
            let codes = codes(d, low, 31.0);
            [&half(d)[..], &half(low), &fifth(&codes), &nibbles(&codes)].concat()
        }
        Format::Q8_0 => {
            let d = largest.abs() / 127.0;
            let codes = codes(d, -128.0 * d, 255.0);
            let codes: Vec<u8> = codes.iter().map(|code| code.wrapping_sub(128)).collect();
            [&half(d)[..], &codes].concat()
        }
        Format::Iq4Nl => {
            const TABLE: [i32; 16] =
                [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
            let d = largest.abs().max(1e-9) / 120.0;
            let nearest = |x: &f32| {
                let away = |code: &u8| (TABLE[usize::from(*code)] as f32 * d - x).abs();
                (0..16u8).min_by(|a, b| away(a).total_cmp(&away(b))).unwrap_or(0)
            };
            let codes: Vec<u8> = values.iter().map(nearest).collect();
            [&half(d)[..], &nibbles(&codes)].concat()
        }
        _ => {
            let deviation = largest.abs() / 3.0;
            let mut block: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
            let mut scale = |at: usize, d: f32| block[at..at + 2].copy_from_slice(&half(d));
            match format {
                Format::Q2K => {
                    scale(80, deviation / 10.0);
                    scale(82, deviation / 7.0);
                }
                Format::Q3K => scale(108, deviation / 40.0),
                Format::Q4K => {
                    scale(0, deviation / 200.0);
                    scale(2, deviation / 30.0);
                }
                Format::Q5K => {
                    scale(0, deviation / 400.0);
                    scale(2, deviation / 30.0);
                }
                Format::Q6K => scale(208, deviation / 1300.0),
                _ => scale(0, deviation / 1300.0),
            }
            block
        }
    }
}

impl Stored {
    /// # Panics
    /// For types that are not floats.
    pub fn values(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => {
                self.data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
            }
            Dtype::BF16 => {
                self.data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), data }
    }
}

/// A GGUF file of these tensors. `choose` says how a matrix of so many columns is packed; the rest is
/// in f32, and pad tokens have one axis.
pub fn gguf(state: &State, mut choose: impl FnMut(&str, usize) -> Format) -> Gguf {
    let mut random = Random(7);
    let mut tensors = Vec::new();
    for (name, stored) in &state.0 {
        let values = stored.values();
        let shape: Vec<usize> = match &stored.shape[..] {
            [1, all] => vec![*all],
            other => other.to_vec(),
        };
        let columns = *shape.last().expect("an axis");
        let format = if shape.len() == 2 { choose(name, columns) } else { Format::F32 };
        let format = if columns.is_multiple_of(format.multiple()) { format } else { Format::F16 };
        tensors.push((name.clone(), shape, format, pack(format, &values, &mut random)));
    }
    Gguf { pairs: Vec::new(), tensors }
}

/// A layout of ComfyUI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Cast to the type, without scales.
    Plain,
    /// With `scale_weight`.
    Older,
    /// With `comfy_quant`.
    Mixed,
}

/// The matrices of a state in a layout and format of ComfyUI; those that do not divide stay as they are.
pub fn comfy(state: &State, layout: Layout, format: Format) -> State {
    let mut packed = BTreeMap::new();
    for (name, stored) in &state.0 {
        let module = name.strip_suffix(".weight");
        let divides = |columns: &usize| {
            columns.is_multiple_of(format.multiple().max(8)) && stored.shape.len() == 2
        };
        let (Some(module), Some(&columns)) = (module, stored.shape.last().filter(|n| divides(n)))
        else {
            packed.insert(name.clone(), stored.clone());
            continue;
        };
        let values = stored.values();
        layer(&mut packed, module, &values, columns, layout, format);
    }
    State(packed)
}

fn layer(
    out: &mut BTreeMap<String, Stored>,
    module: &str,
    values: &[f32],
    columns: usize,
    layout: Layout,
    format: Format,
) {
    let rows = values.len() / columns;
    let largest = |values: &[f32]| values.iter().fold(1e-9f32, |most, x| most.max(x.abs()));
    let mut put = |name: &str, dtype, shape: &[usize], data: Vec<u8>| {
        out.insert(format!("{module}.{name}"), Stored { dtype, shape: shape.to_vec(), data });
    };
    let shape = [rows, columns];
    match format {
        Format::E4m3 | Format::E5m2 => {
            let codes = Codes::new(format);
            let scale = if layout == Layout::Plain { 1.0 } else { largest(values) / codes.most() };
            let dtype = if format == Format::E4m3 { Dtype::F8_E4M3 } else { Dtype::F8_E5M2 };
            let data = values.iter().map(|x| codes.nearest(x / scale)).collect();
            put("weight", dtype, &shape, data);
            let name = if layout == Layout::Older { "scale_weight" } else { "weight_scale" };
            if layout != Layout::Plain {
                put(name, Dtype::F32, &[], scale.to_le_bytes().to_vec());
            }
        }
        Format::Int8 { .. } => {
            let scales: Vec<f32> = values.chunks(columns).map(|row| largest(row) / 127.0).collect();
            let rows_and_scales = values.chunks(columns).zip(&scales);
            let data = rows_and_scales
                .flat_map(|(row, scale)| row.iter().map(move |x| (x / scale).round() as i8 as u8));
            put("weight", Dtype::I8, &shape, data.collect());
            let scales = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            put("weight_scale", Dtype::F32, &[rows, 1], scales);
        }
        Format::Nvfp4 | Format::Mxfp8 => {
            let (block, _) = format.block();
            let (per_row, small) = (columns / block, Codes::new(Format::E4m3));
            let (height, width) = (rows.next_multiple_of(128), per_row.next_multiple_of(4));
            let mut scales = vec![0u8; height * width];
            let second = largest(values) / (448.0 * 6.0);
            let mut data = Vec::new();
            for (at, values) in values.chunks(block).enumerate() {
                let (row, column) = (at / per_row, at % per_row);
                let tile = row / 128 * (width / 4) + column / 4;
                let place = tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + column % 4;
                if format == Format::Nvfp4 {
                    let code = small.nearest(largest(values) / 6.0 / second).max(1);
                    scales[place] = code;
                    let scale = small.value(code) * second;
                    let nearest = |x: f32| {
                        let table = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
                        let away = |code: &u8| (table[usize::from(*code)] - x.abs() / scale).abs();
                        let code = (0..8u8).min_by(|a, b| away(a).total_cmp(&away(b))).unwrap_or(0);
                        code | u8::from(x < 0.0) << 3
                    };
                    data.extend(values.chunks(2).map(|two| nearest(two[0]) << 4 | nearest(two[1])));
                } else {
                    let exponent = (largest(values) / 448.0).log2().ceil();
                    scales[place] = (exponent + 127.0) as u8;
                    data.extend(values.iter().map(|x| small.nearest(x / exponent.exp2())));
                }
            }
            if format == Format::Nvfp4 {
                put("weight", Dtype::U8, &[rows, columns / 2], data);
                put("weight_scale", Dtype::F8_E4M3, &[height, width], scales);
                put("weight_scale_2", Dtype::F32, &[], second.to_le_bytes().to_vec());
            } else {
                put("weight", Dtype::F8_E4M3, &shape, data);
                put("weight_scale", Dtype::U8, &[height, width], scales);
            }
        }
        other => panic!("{other:?}"),
    }
    if layout == Layout::Mixed {
        let about = match format {
            Format::Int8 { group } if group > 0 => format!(
                "{{\"format\": \"int8_tensorwise\", \"convrot\": true, \"convrot_groupsize\": {group}}}"
            ),
            other => format!("{{\"format\": \"{}\"}}", other.name()),
        };
        put("comfy_quant", Dtype::U8, &[about.len()], about.into_bytes());
    }
}

/// The finite values of a small float, in order.
struct Codes(Vec<(f32, u8)>);

impl Codes {
    fn new(format: Format) -> Self {
        let mut row = vec![0u8; Format::HEADER];
        row[..4].copy_from_slice(&1f32.to_le_bytes());
        row.extend(0..=255u8);
        let mut values = vec![0.0; 256];
        format.expand(&row, &mut values);
        let mut codes: Vec<(f32, u8)> = values.into_iter().zip(0..=255).collect();
        codes.retain(|(value, _)| value.is_finite());
        codes.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self(codes)
    }

    fn most(&self) -> f32 {
        self.0.last().map_or(1.0, |(value, _)| *value)
    }

    fn value(&self, code: u8) -> f32 {
        self.0.iter().find(|(_, known)| *known == code).map_or(0.0, |(value, _)| *value)
    }

    fn nearest(&self, x: f32) -> u8 {
        let after = self.0.partition_point(|(value, _)| *value < x).min(self.0.len() - 1);
        let before = after.saturating_sub(1);
        let away = |at: usize| (self.0[at].0 - x).abs();
        self.0[if away(before) < away(after) { before } else { after }].1
    }
}
