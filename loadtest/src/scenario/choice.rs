//! Which title each viewer chooses. Pure.

use crate::random::Random;

/// By what rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// One after the other, again and again.
    RoundRobin,
    /// Each as likely as any other.
    Uniform,
    /// The title of rank `n`, in the order of the target, with a weight of `1 / n^exponent`.
    Zipf {
        /// 0 is uniform; libraries of films have been seen at 0.6 to 1.2.
        exponent: f64,
    },
    /// All the first, as at an event.
    First,
    /// Each title once, in order, and then nobody comes: what no cache has seen.
    Once,
}

/// The choices of all viewers, one after the other.
#[derive(Debug, Clone)]
pub struct Choice {
    rule: Rule,
    random: Random,
    /// How often each title was chosen.
    visits: Vec<usize>,
    /// Of a Zipf rule: the weights of all titles up to and with each.
    weights: Vec<f64>,
    made: usize,
}

/// One viewer's title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Which of the titles.
    pub title: usize,
    /// How many have chosen it before.
    pub visit: usize,
}

impl Choice {
    /// Among so many titles.
    pub fn new(rule: Rule, titles: usize, seed: u64) -> Self {
        let mut sum = 0.0;
        let weights = match rule {
            Rule::Zipf { exponent } => (1..=titles)
                .map(|rank| {
                    sum += weight(rank, exponent);
                    sum
                })
                .collect(),
            Rule::RoundRobin | Rule::Uniform | Rule::First | Rule::Once => Vec::new(),
        };
        Self {
            rule,
            random: Random::seeded(seed),
            visits: vec![0; titles],
            weights,
            made: 0,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "no library has 2^53 titles")]
fn weight(rank: usize, exponent: f64) -> f64 {
    (rank as f64).powf(-exponent)
}

impl Iterator for Choice {
    type Item = Chosen;

    fn next(&mut self) -> Option<Chosen> {
        let titles = self.visits.len();
        let last = titles.checked_sub(1)?;
        let title = match self.rule {
            Rule::RoundRobin => self.made % titles,
            Rule::Uniform => self.random.below(titles),
            Rule::Zipf { .. } => {
                let drawn = self.random.share() * self.weights[last];
                self.weights.partition_point(|sum| *sum <= drawn).min(last)
            }
            Rule::First => 0,
            Rule::Once if self.made == titles => return None,
            Rule::Once => self.made,
        };
        self.made += 1;
        let visit = self.visits[title];
        self.visits[title] += 1;
        Some(Chosen { title, visit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(rule: Rule, titles: usize, seed: u64, count: usize) -> Vec<usize> {
        Choice::new(rule, titles, seed)
            .take(count)
            .map(|chosen| chosen.title)
            .collect()
    }

    #[test]
    fn in_turn_again_and_again_or_once() {
        let visits: Vec<_> = Choice::new(Rule::RoundRobin, 2, 0)
            .take(3)
            .map(|c| (c.title, c.visit))
            .collect();
        assert_eq!(visits, [(0, 0), (1, 0), (0, 1)]);
        assert_eq!(titles(Rule::Once, 3, 0, 9), [0, 1, 2]);
        assert_eq!(titles(Rule::First, 3, 0, 4), [0; 4]);
        for rule in [
            Rule::RoundRobin,
            Rule::Uniform,
            Rule::Zipf { exponent: 1.0 },
            Rule::Once,
        ] {
            assert_eq!(Choice::new(rule, 0, 0).next(), None);
        }
    }

    #[test]
    fn zipf_prefers_the_first_by_its_exponent() {
        let chosen = titles(Rule::Zipf { exponent: 1.0 }, 100, 5, 100_000);
        let count = |title| chosen.iter().filter(|chosen| **chosen == title).count();
        // 1 / H(100) is 0.1928.
        assert!((18_900..19_700).contains(&count(0)), "{}", count(0));
        assert!((9_300..10_000).contains(&count(1)), "{}", count(1));
        assert!(count(99) > 100 && count(99) < 300, "{}", count(99));
        let even = titles(Rule::Zipf { exponent: 0.0 }, 4, 5, 40_000);
        assert!((9_500..10_500).contains(&even.iter().filter(|title| **title == 3).count()));
    }

    #[test]
    fn the_seed_decides() {
        for rule in [Rule::Uniform, Rule::Zipf { exponent: 0.8 }] {
            assert_eq!(titles(rule, 9, 1, 50), titles(rule, 9, 1, 50));
            assert_ne!(titles(rule, 9, 1, 50), titles(rule, 9, 2, 50));
        }
    }
}
