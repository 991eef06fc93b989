//! Random draws as pure functions of a seed, a purpose and counters: nothing to save, the same everywhere.
//!
//! A draw is the first 8 bytes, little endian, of BLAKE3 over `dkt.draw.1`, the purpose and the counters, keyed
//! by the seed; `docs/streams.md` states it byte by byte. Streams and views depend on it, so it never changes
//! under the same version.

/// A family of draws.
#[derive(Clone, Debug)]
pub struct Draw {
    hasher: blake3::Hasher,
}

impl Draw {
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut key = [0; blake3::KEY_LEN];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(b"dkt.draw.1");
        hasher.update(&(purpose.len() as u64).to_le_bytes());
        hasher.update(purpose.as_bytes());
        Draw { hasher }
    }

    /// The draw at these counters, uniform over all 64-bit numbers.
    pub fn at(&self, counters: &[u64]) -> u64 {
        let mut hasher = self.hasher.clone();
        for counter in counters {
            hasher.update(&counter.to_le_bytes());
        }
        let hash = hasher.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(first)
    }

    /// Uniform in `0..n`: the high half of the 128-bit product of the draw and `n`. With `n` below 2^32 the bias
    /// is below 2^-32, which no stream is long enough to show.
    pub fn below(&self, n: u64, counters: &[u64]) -> u64 {
        ((u128::from(self.at(counters)) * u128::from(n)) >> 64) as u64
    }

    /// Fisher-Yates from the end: for i from the last down to 1, swap i with a draw below i + 1 at
    /// (counters, i).
    pub fn shuffle<T>(&self, items: &mut [T], counters: &[u64]) {
        for i in (1..items.len()).rev() {
            let at = [counters, &[i as u64]].concat();
            items.swap(i, self.below(i as u64 + 1, &at) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of docs/streams.md, computed there by an independent program.
    #[test]
    fn draws_are_those_of_the_written_format() {
        let draw = Draw::new(7, "example");
        assert_eq!(draw.at(&[]), EXPECTED[0]);
        assert_eq!(draw.at(&[1, 2]), EXPECTED[1]);
        assert_eq!(draw.below(10, &[3]), EXPECTED[2]);
        let mut items: Vec<u64> = (0..8).collect();
        draw.shuffle(&mut items, &[5]);
        assert_eq!(items, EXPECTED[3..]);
    }

    const EXPECTED: [u64; 11] =
        [13_107_685_788_953_063_877, 13_710_023_134_862_973_871, 8, 6, 1, 7, 0, 3, 5, 4, 2];

    #[test]
    fn seeds_purposes_and_counters_all_matter() {
        let base = Draw::new(1, "a").at(&[1]);
        for other in [Draw::new(2, "a").at(&[1]), Draw::new(1, "b").at(&[1]), Draw::new(1, "a").at(&[2])] {
            assert_ne!(base, other);
        }
    }
}
