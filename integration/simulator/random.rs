//! The only source of chance in a simulation: xoshiro256** (Blackman and Vigna, 2018), its state
//! drawn from one seed by `SplitMix64`. Same seed, same numbers, on every machine and for ever.

/// A stream of numbers that follows from its seed alone.
#[derive(Debug, Clone)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        let mut at = seed;
        let mut next = || {
            at = at.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (at ^ (at >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let [_, second, _, _] = self.state;
        let result = second.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = second << 17;
        let s = &mut self.state;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.number()) * u128::from(bound)) >> 64).unwrap_or(0)
    }

    /// A position in a list of `length`.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in so many of a thousand cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// One of a list.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> Option<T> {
        if list.is_empty() { None } else { list.get(self.index(list.len())).copied() }
    }

    /// How long something lasts: up to three times what is usual.
    pub fn duration(&mut self, usual: u64) -> u64 {
        let most = if self.chance(200) { 3 * usual } else { usual };
        self.between(usual / 100, most)
    }

    /// Never much longer than usual: how delays are when nothing is wrong.
    pub fn calm_delay(&mut self, usual: u64) -> u64 {
        self.between(usual / 4, usual)
    }

    /// Mostly short, sometimes up to a hundred times as long: how delays are in life.
    pub fn delay(&mut self, usual: u64) -> u64 {
        let factor = if self.chance(20) { 100 } else { 4 };
        let most = if self.chance(100) { usual * factor } else { usual };
        self.between(usual / 4, most)
    }
}
