//! Figures of one thing, round by round.

use serde::Serialize;

/// Figures in the order in which they were measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Series(Vec<f64>);

/// Middle, least and most of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Series {
    pub(super) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// `None` where there is no figure.
    pub(super) fn spread(&self) -> Option<Spread> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Spread { median, min, max })
    }

    /// The ratio of the medians, between the least and the most of the rounds' own ratios.
    pub(super) fn over(&self, others: &Self) -> Option<Spread> {
        let pairs = self.0.iter().zip(&others.0);
        let pairs = Self(pairs.map(|(ours, theirs)| ours / theirs).collect()).spread()?;
        Some(Spread {
            median: self.spread()?.median / others.spread()?.median,
            ..pairs
        })
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        Self(figures.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_and_ratios_are_those_of_rounds() {
        let ours: Series = [4.0, 2.0, 3.0, 9.0].into_iter().collect();
        let spread = ours.spread().unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (3.5, 2.0, 9.0));
        let theirs: Series = [2.0, 4.0, 3.0, 3.0].into_iter().collect();
        let ratio = ours.over(&theirs).unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (3.5 / 3.0, 0.5, 3.0));
        assert_eq!(Series::default().spread(), None);
        assert_eq!(ours.over(&Series::default()), None);
    }
}
