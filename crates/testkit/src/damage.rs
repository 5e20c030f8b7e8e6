//! Inputs that are almost right, for parsers that must refuse what is wrong and never break.
//!
//! Every run tries the same inputs. `PROPTEST_RNG_SEED=7` tries others, and
//! `PROPTEST_CASES=1000000 cargo test --release ...` as many as one has time for.

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any},
    prop_oneof,
    sample::{Index, select},
    test_runner::RngSeed,
};

/// Something done to bytes. Places are parts of the length, so that they fit whatever came before.
#[derive(Clone, Debug)]
enum Harm {
    Set(Index, u8),
    Flip(Index, u8),
    /// A number of four or eight bytes that tests bounds.
    Number(Index, u64, bool),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    Repeat(Index, Index),
    Cut(Index),
}

/// As many cases as the environment says, from the seed that it names or always the same one, and no
/// files left behind.
pub fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    let rng_seed = match config.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0),
        named => named,
    };
    ProptestConfig { failure_persistence: None, rng_seed, ..config }
}

/// One of these, with up to six things done to it.
pub fn damaged(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edges =
        select(vec![0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX / 2, u64::MAX]);
    let harm = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        (any::<Index>(), edges, any::<bool>()).prop_map(|(at, n, wide)| Harm::Number(at, n, wide)),
        (any::<Index>(), vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Harm::Insert(at, bytes)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Harm::Remove(from, to)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Harm::Repeat(from, to)),
        any::<Index>().prop_map(Harm::Cut),
    ];
    let seed = prop_oneof![9 => select(seeds), 1 => Just(Vec::new())];
    (seed, vec(harm, 0..6)).prop_map(|(bytes, harms)| harms.into_iter().fold(bytes, apply))
}

/// Likewise of texts, which stay texts.
pub fn damaged_text(seeds: &[&str]) -> impl Strategy<Value = String> {
    let seeds = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    damaged(seeds).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn apply(mut bytes: Vec<u8>, harm: Harm) -> Vec<u8> {
    let place = |at: Index, len: usize| at.index(len + 1);
    let len = bytes.len();
    match harm {
        Harm::Set(at, byte) if len > 0 => bytes[at.index(len)] = byte,
        Harm::Flip(at, bit) if len > 0 => bytes[at.index(len)] ^= 1 << bit,
        Harm::Number(at, number, wide) => {
            let number = number.to_le_bytes();
            let written = if wide { &number[..] } else { &number[..4] };
            for (old, new) in bytes[place(at, len)..].iter_mut().zip(written) {
                *old = *new;
            }
        }
        Harm::Insert(at, more) => {
            let at = place(at, len);
            bytes.splice(at..at, more);
        }
        Harm::Remove(from, to) => {
            let (a, b) = (place(from, len), place(to, len));
            bytes.drain(a.min(b)..a.max(b));
        }
        Harm::Repeat(from, to) => {
            let (a, b) = (place(from, len), place(to, len));
            // Not more than it takes to be too much.
            let part = bytes[a.min(b)..a.max(b).min(a.min(b) + 4096)].to_vec();
            bytes.splice(a.min(b)..a.min(b), part);
        }
        Harm::Cut(at) => bytes.truncate(place(at, len)),
        Harm::Set(..) | Harm::Flip(..) => {}
    }
    bytes
}
