//! Media time: ticks that know their timescale, and conversions that name their rounding.

use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroU32;

/// Ticks per second; never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timescale(NonZeroU32);

impl Timescale {
    /// Thousandths of a second.
    pub const MILLISECONDS: Self = Self::new(1000).expect("1000 is not zero");

    /// The timescale of `ticks_per_second`, or `None` for zero.
    pub const fn new(ticks_per_second: u32) -> Option<Self> {
        match NonZeroU32::new(ticks_per_second) {
            Some(ticks) => Some(Self(ticks)),
            None => None,
        }
    }

    /// Ticks per second.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Timescale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Timescale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

/// Which way a conversion between timescales goes when the instant falls between two ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the tick at or before the instant (towards minus infinity).
    Down,
    /// To the nearest tick, a tie to the later one.
    Nearest,
    /// To the tick at or after the instant.
    Up,
}

/// `ticks` of timescale `from`, expressed in timescale `to`.
///
/// Saturates at the ends of `i64`, which no source reaches: an index is refused when its duration passes
/// [`crate::index::MAX_DURATION_SECONDS`].
pub fn rescale(ticks: i64, from: Timescale, to: Timescale, rounding: Rounding) -> i64 {
    // Almost always 64 bits are enough, and a division of 128 takes ten times as long.
    let (scale, divisor) = (i64::from(to.get()), i64::from(from.get()));
    let doubled = ticks.checked_mul(2 * scale);
    if let Some(rounded) = doubled.and_then(|doubled| doubled.checked_add(divisor)) {
        let product = ticks * scale;
        return match rounding {
            Rounding::Down => product.div_euclid(divisor),
            Rounding::Nearest => rounded.div_euclid(2 * divisor),
            Rounding::Up => -(-product).div_euclid(divisor),
        };
    }
    let product = i128::from(ticks) * i128::from(to.get());
    let divisor = i128::from(from.get());
    let quotient = match rounding {
        Rounding::Down => product.div_euclid(divisor),
        Rounding::Nearest => (2 * product + divisor).div_euclid(2 * divisor),
        Rounding::Up => -(-product).div_euclid(divisor),
    };
    let bounded = quotient.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    i64::try_from(bounded).expect("clamped to the range of i64 just above")
}

/// An instant or a span: ticks with their timescale.
///
/// Equality and order compare the instants, so 1 s in two timescales is one value.
#[derive(Clone, Copy)]
pub struct MediaTime {
    /// The count, which may lie before zero.
    pub ticks: i64,
    /// What one tick is.
    pub timescale: Timescale,
}

impl MediaTime {
    /// `ticks` of `timescale`.
    pub const fn new(ticks: i64, timescale: Timescale) -> Self {
        Self { ticks, timescale }
    }

    /// The same instant in another timescale.
    #[must_use]
    pub fn to_timescale(self, to: Timescale, rounding: Rounding) -> Self {
        Self {
            ticks: rescale(self.ticks, self.timescale, to, rounding),
            timescale: to,
        }
    }

    /// Seconds, for people: never for arithmetic that decides a byte.
    #[expect(
        clippy::cast_precision_loss,
        reason = "shown to people with a few digits"
    )]
    pub fn as_seconds_f64(self) -> f64 {
        self.ticks as f64 / f64::from(self.timescale.get())
    }
}

impl fmt::Debug for MediaTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ticks, self.timescale)
    }
}

impl PartialEq for MediaTime {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for MediaTime {}

impl PartialOrd for MediaTime {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MediaTime {
    fn cmp(&self, other: &Self) -> Ordering {
        let own = i128::from(self.ticks) * i128::from(other.timescale.get());
        let others = i128::from(other.ticks) * i128::from(self.timescale.get());
        own.cmp(&others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(ticks: u32) -> Timescale {
        Timescale::new(ticks).unwrap()
    }

    #[test]
    fn rounding_is_what_its_name_says() {
        let (from, to) = (scale(3), scale(2));
        for (ticks, down, nearest, up) in [
            (0, 0, 0, 0),
            (1, 0, 1, 1),
            (2, 1, 1, 2),
            (3, 2, 2, 2),
            (-1, -1, -1, 0),
            (-2, -2, -1, -1),
        ] {
            assert_eq!(
                rescale(ticks, from, to, Rounding::Down),
                down,
                "{ticks} down"
            );
            assert_eq!(
                rescale(ticks, from, to, Rounding::Nearest),
                nearest,
                "{ticks} nearest"
            );
            assert_eq!(rescale(ticks, from, to, Rounding::Up), up, "{ticks} up");
        }
    }

    #[test]
    fn a_tie_goes_to_the_later_tick() {
        assert_eq!(rescale(1, scale(2), scale(1), Rounding::Nearest), 1);
        assert_eq!(rescale(-1, scale(2), scale(1), Rounding::Nearest), 0);
    }

    #[test]
    fn what_passes_64_bits_on_the_way_is_rounded_alike() {
        // 2^62 thirds of a second are 2^62 * 2 / 3 halves: 3074457345618258602.67.
        for (rounding, halves) in [
            (Rounding::Down, 3_074_457_345_618_258_602),
            (Rounding::Nearest, 3_074_457_345_618_258_603),
            (Rounding::Up, 3_074_457_345_618_258_603),
        ] {
            assert_eq!(rescale(1 << 62, scale(3), scale(2), rounding), halves);
        }
    }

    #[test]
    fn saturates_instead_of_wrapping() {
        assert_eq!(
            rescale(i64::MAX, scale(1), scale(u32::MAX), Rounding::Up),
            i64::MAX
        );
        assert_eq!(
            rescale(i64::MIN, scale(1), scale(u32::MAX), Rounding::Down),
            i64::MIN
        );
    }

    #[test]
    fn one_instant_in_two_timescales_is_equal() {
        assert_eq!(
            MediaTime::new(48_000, scale(48_000)),
            MediaTime::new(25, scale(25))
        );
        assert!(MediaTime::new(1, scale(30_000)) < MediaTime::new(1, scale(29_999)));
    }
}
