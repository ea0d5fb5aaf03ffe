//! A small generator of numbers that look random and are the same in every run: SplitMix64.
//!
//! Steele, Lea, Flood: *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014, with the constants of its
//! `mix64variant13`. Nothing here is secret, and nothing may be that is drawn from it.

/// The odd integer nearest to 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence of its own for the thing of this number, whatever is drawn for others.
    #[must_use]
    pub fn of(&self, number: u64) -> Self {
        Self(mix(self.0 ^ mix(number.wrapping_add(GAMMA))))
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// A number from 0 to below 1.
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits are what the number can hold"
    )]
    pub fn share(&mut self) -> f64 {
        const STEPS: f64 = (1_u64 << 53) as f64;
        (self.bits() >> 11) as f64 / STEPS
    }

    /// A number below `end`; 0 where that is 0. Uneven by less than `end` in 2^64.
    pub fn below(&mut self, end: usize) -> usize {
        let wide = u128::from(self.bits()) * end as u128;
        usize::try_from(wide >> 64).expect("it is below `end`")
    }

    /// A waiting time whose mean is 1, as between events that know nothing of each other.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.share()).ln()
    }
}

fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the published generator yields for seed 1234567.
    #[test]
    fn is_the_published_sequence() {
        let mut random = Random::seeded(1_234_567);
        let first = [(); 5].map(|()| random.bits());
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
    }

    #[test]
    fn draws_lie_where_they_must_and_spread() {
        let mut random = Random::seeded(7);
        let mut counts = [0; 5];
        let (mut shares, mut waits) = (0.0, 0.0);
        for _ in 0..50_000 {
            counts[random.below(5)] += 1;
            let share = random.share();
            assert!((0.0..1.0).contains(&share));
            shares += share;
            waits += random.exponential();
        }
        assert!(
            counts.iter().all(|count| (9_500..10_500).contains(count)),
            "{counts:?}"
        );
        assert!((shares / 50_000.0 - 0.5_f64).abs() < 0.01);
        assert!((waits / 50_000.0 - 1.0_f64).abs() < 0.02);
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn sequences_of_numbers_are_their_own_and_the_same_again() {
        let random = Random::seeded(7);
        assert_eq!(random.of(3).bits(), random.of(3).bits());
        assert_ne!(random.of(3).bits(), random.of(4).bits());
        assert_ne!(random.of(3).bits(), Random::seeded(8).of(3).bits());
    }
}
