//! Which bytes of each sample of a fragment are protected.

use crate::index::protection::Subsample;

/// The subsamples of consecutive samples, in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubsampleTable {
    entries: Vec<Subsample>,
    /// For each sample, where its entries end.
    ends: Vec<usize>,
}

impl SubsampleTable {
    /// A table of no samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next sample: `map` appends its subsamples and touches nothing before them.
    ///
    /// # Errors
    /// Whatever `map` returns; the sample is then not added.
    pub fn push_with<E>(
        &mut self,
        map: impl FnOnce(&mut Vec<Subsample>) -> Result<(), E>,
    ) -> Result<(), E> {
        let begin = self.entries.len();
        if let Err(error) = map(&mut self.entries) {
            self.entries.truncate(begin);
            return Err(error);
        }
        self.ends.push(self.entries.len());
        Ok(())
    }

    /// Adds the next sample.
    pub fn push(&mut self, subsamples: impl IntoIterator<Item = Subsample>) {
        self.entries.extend(subsamples);
        self.ends.push(self.entries.len());
    }

    /// How many samples are in the table.
    pub fn samples(&self) -> usize {
        self.ends.len()
    }

    /// The subsamples of the sample at `position`, counted from the first of the table.
    ///
    /// # Panics
    /// When there are no more than `position` samples.
    pub fn get(&self, position: usize) -> &[Subsample] {
        let begin = position
            .checked_sub(1)
            .map_or(0, |before| self.ends[before]);
        &self.entries[begin..self.ends[position]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Subsample = Subsample {
        clear: 1,
        protected: 16,
    };

    #[test]
    fn each_sample_has_its_own_entries() {
        let mut table = SubsampleTable::new();
        table.push([ONE, ONE]);
        table.push([]);
        table.push([ONE]);
        assert_eq!(
            (table.get(0).len(), table.get(1).len(), table.get(2).len()),
            (2, 0, 1)
        );
        assert_eq!(table.samples(), 3);
    }

    #[test]
    fn a_sample_that_fails_leaves_no_trace() {
        let mut table = SubsampleTable::new();
        let result = table.push_with(|out| {
            out.push(ONE);
            Err(())
        });
        assert_eq!(result, Err(()));
        assert_eq!(table, SubsampleTable::new());
    }
}
