use super::*;

/// Writes a header by hand, so that it can be wrong.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn new(version: u32, tensors: u64, pairs: u64) -> Self {
        Self(MAGIC.to_vec()).u32(version).u64(tensors).u64(pairs)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut written = self.u64(text.len() as u64);
        written.0.extend(text.as_bytes());
        written
    }

    fn whole(self, key: &str, value: u32) -> Self {
        self.text(key).u32(4).u32(value)
    }

    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let named = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(named, |written, &dim| written.u64(dim)).u32(kind).u64(offset)
    }

    /// With so many bytes of data.
    fn data(mut self, bytes: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + bytes, 0);
        self.0
    }
}

fn refusal(bytes: &[u8]) -> String {
    match read(bytes, 0) {
        Ok(_) => panic!("it was read"),
        Err(cause) => cause,
    }
}

#[test]
fn shapes_are_turned_round_and_places_found() {
    let file = Writer::new(3, 3, 1)
        .whole("general.alignment", 64)
        .tensor("b", &[64, 3], 8, 0)
        .tensor("a", &[7], 0, 256)
        .tensor("nothing", &[0, 4], 0, 256)
        .data(512);
    let header = read(&file, 0).expect("a file");
    let [a, b] = &header.tensors[..] else { panic!("{:?}", header.tensors) };
    assert_eq!((&*a.name, &a.whole[..]), ("a", &[7][..]));
    assert_eq!((&*b.name, &b.whole[..], b.bytes.len()), ("b", &[3, 64][..], 204));
    assert_eq!(b.bytes.start % 64, 0);
    assert_eq!(a.bytes, b.bytes.start + 256..b.bytes.start + 284);
    let start = |version| Writer::new(version, 0, 0).0;
    assert!(read(&start(2), 0).is_ok());
    for (version, words) in [(1, "version 1"), (3 << 24, "big-endian"), (7, "version 7")] {
        assert!(refusal(&start(version)).contains(words), "{version}");
    }
}

#[test]
fn a_shape_that_was_changed_is_put_back() {
    let shaped = |axes: &[u32]| {
        let key = Writer::new(3, 1, 1).text("comfy.gguf.orig_shape.a").u32(9).u32(5);
        let key = axes.iter().fold(key.u64(axes.len() as u64), |key, &axis| key.u32(axis));
        key.tensor("a", &[64, 2], 8, 0).data(136)
    };
    let header = read(&shaped(&[4, 8, 4]), 0).expect("a file");
    assert_eq!(header.tensors[0].whole, [4, 8, 4]);
    assert!(refusal(&shaped(&[4, 8])).contains("orig_shape"));
}

#[test]
fn every_wrong_number_is_refused_in_words() {
    let one = |dims: &[u64], kind, offset| Writer::new(3, 1, 0).tensor("a", dims, kind, offset);
    for (file, words) in [
        (one(&[64], 8, 0).data(67), "download it again"),
        (one(&[64], 8, 16).data(200), "alignment"),
        (one(&[64], 8, u64::MAX - 31).data(200), "download it again"),
        (one(&[33], 8, 0).data(200), "rows of 33"),
        (one(&[u64::MAX, 2], 0, 0).data(200), "too large"),
        (one(&[1 << 62, 4], 0, 0).data(200), "too large"),
        (one(&[1 << 40, 1 << 40], 8, 0).data(200), "too large"),
        (one(&[1, 1, 1, 1, 1], 0, 0).data(200), "5 axes"),
        (one(&[256], 16, 0).data(200), "IQ2_XXS"),
        (one(&[256], 39, 0).data(200), "MXFP4"),
        (one(&[256], 4711, 0).data(200), "number 4711"),
        (one(&[1], 0, 0).0, "download it again"),
        (Writer::new(3, u64::MAX, 0).0, "tensors"),
        (Writer::new(3, 0, u64::MAX).0, "key-value pairs"),
        (Writer::new(3, 0, 1).u64(u64::MAX).0, "longer than the file"),
        (Writer::new(3, 0, 1).text("k").u32(8).u64(1 << 40).0, "longer than the file"),
        (Writer::new(3, 0, 1).text("k").u32(77).0, "unknown type 77"),
        (Writer::new(3, 0, 1).text("k").u32(9).u32(0).u64(u64::MAX).0, "longer than the file"),
        (Writer::new(3, 0, 1).text("k").u32(9).u32(8).u64(u64::MAX).0, "longer than the file"),
        (Writer::new(3, 0, 1).text("k").u32(9).u32(77).u64(1).0, "unknown type 77"),
        (Writer::new(3, 0, 2).whole("k", 1).whole("k", 1).0, "twice"),
        (Writer::new(3, 0, 1).whole("split.count", 3).0, "llama-gguf-split"),
        (Writer::new(3, 0, 1).whole("general.alignment", 48).0, "power of two"),
        (Writer::new(3, 0, 1).whole("general.alignment", 0).0, "power of two"),
    ] {
        let said = refusal(&file);
        assert!(said.contains(words), "{words}: {said}");
    }
    let twice = Writer::new(3, 2, 0).tensor("a", &[1], 0, 0).tensor("a", &[1], 0, 32);
    assert!(refusal(&twice.data(64)).contains("twice"));
    let mut nested = Writer::new(3, 0, 1).text("k");
    for _ in 0..6 {
        nested = nested.u32(9).u64(1);
    }
    nested.0.drain(nested.0.len() - 8..);
    assert!(!refusal(&nested.0).is_empty());
}

#[test]
fn a_file_that_was_cut_anywhere_is_an_error() {
    let whole = Writer::new(3, 2, 2)
        .whole("split.count", 1)
        .text("general.name")
        .u32(8)
        .text("x")
        .tensor("a", &[32], 8, 0)
        .tensor("b", &[4], 0, 64)
        .data(80);
    assert!(read(&whole, 0).is_ok());
    for length in 0..whole.len() {
        assert!(read(&whole[..length], 0).is_err(), "{length} of {}", whole.len());
    }
}
