//! The sample tables of a track as columns.

use std::ops::Range;

use bytes::Bytes;

/// The columns of one track, in the bytes of the index file.
///
/// Samples count from 0. A sample number must be below [`Samples::count`]: functions panic otherwise, as a
/// slice does.
#[derive(Clone, Debug)]
pub(super) struct Samples {
    pub(super) count: u32,
    /// Ticks of all samples together.
    pub(super) duration: u64,
    /// The latest end of a composed sample.
    pub(super) composition_end: i64,
    /// `count` + 1 prefix sums of sample sizes, the first 0.
    pub(super) sizes: U64s,
    /// Runs of samples that follow each other in the file: first sample, and offset of its first byte.
    pub(super) run_samples: U32s,
    pub(super) run_offsets: U64s,
    /// Runs of samples of one duration: first sample, its decode time, and the duration.
    pub(super) time_samples: U32s,
    pub(super) time_starts: U64s,
    pub(super) time_deltas: U32s,
    /// Composition offsets as two's complement; empty where all are 0.
    pub(super) compositions: U32s,
    /// Sync samples in rising order; empty where all are.
    pub(super) syncs: U32s,
    pub(super) all_sync: bool,
    /// A byte of `sdtp` for each sample; empty where the source has none.
    pub(super) dependencies: Bytes,
}

/// Where a sample lies in its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which sample.
    pub n: u32,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u32,
}

/// Samples that follow each other in the source without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which samples; at least one.
    pub samples: Range<u32>,
    /// Where the first of them begins in the file.
    pub offset: u64,
    /// Their bytes together.
    pub bytes: u64,
}

impl Samples {
    /// How many samples there are; at least one.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Size of sample `n` in bytes.
    pub(super) fn size(&self, n: u32) -> u32 {
        let size = self.sizes.get(n + 1) - self.sizes.get(n);
        u32::try_from(size).expect("the index builder summed up 32-bit sizes")
    }

    /// Bytes of the samples of `range` together.
    pub(super) fn bytes(&self, range: Range<u32>) -> u64 {
        self.sizes.get(range.end) - self.sizes.get(range.start)
    }

    /// Where sample `n` begins in the file.
    pub(super) fn offset(&self, n: u32) -> u64 {
        let run = self.run_of(n);
        self.run_offsets.get(run) + self.bytes(self.run_samples.get(run)..n)
    }

    /// The first sample after `n` that does not follow its predecessor in the file; the sample count if all do.
    pub(super) fn run_end(&self, n: u32) -> u32 {
        let next = self.run_of(n) + 1;
        if next < self.run_samples.len() {
            self.run_samples.get(next)
        } else {
            self.count
        }
    }

    /// The runs from sample `first` on, of which the first begins there. One search, however many are taken.
    pub(super) fn runs(&self, first: u32) -> impl Iterator<Item = Run> + '_ {
        let begin = self.run_of(first);
        (begin..self.run_samples.len()).map(move |run| {
            let start = self.run_samples.get(run);
            let end = if run + 1 < self.run_samples.len() {
                self.run_samples.get(run + 1)
            } else {
                self.count
            };
            let samples = start.max(first)..end;
            Run {
                offset: self.run_offsets.get(run) + self.bytes(start..samples.start),
                bytes: self.bytes(samples.clone()),
                samples,
            }
        })
    }

    /// Where the samples from `first` on lie in the file, in order.
    pub(super) fn places(&self, first: u32) -> impl Iterator<Item = Place> + '_ {
        self.runs(first).flat_map(
            move |Run {
                      samples,
                      mut offset,
                      ..
                  }| {
                samples.map(move |n| {
                    let size = self.size(n);
                    let place = Place { n, offset, size };
                    offset += u64::from(size);
                    place
                })
            },
        )
    }

    /// When sample `n` is decoded, in ticks from the first sample.
    pub(super) fn decode_time(&self, n: u32) -> u64 {
        self.decode_time_in(self.time_run_of(n), n)
    }

    fn decode_time_in(&self, run: u32, n: u32) -> u64 {
        let after = u64::from(n - self.time_samples.get(run));
        self.time_starts.get(run) + after * u64::from(self.time_deltas.get(run))
    }

    /// How long sample `n` lasts, in ticks.
    pub(super) fn duration(&self, n: u32) -> u32 {
        self.time_deltas.get(self.time_run_of(n))
    }

    /// Ticks of all samples together.
    pub(super) fn total_duration(&self) -> u64 {
        self.duration
    }

    /// Composition time less decode time of sample `n`, in ticks.
    pub(super) fn composition_offset(&self, n: u32) -> i32 {
        assert!(n < self.count, "sample {n} of {}", self.count);
        if self.compositions.len() == 0 {
            0
        } else {
            self.compositions.get(n).cast_signed()
        }
    }

    /// Whether any composition offset is not 0: whether samples are decoded in another order, or at another
    /// time, than shown.
    pub(super) fn has_composition_offsets(&self) -> bool {
        self.compositions.len() > 0
    }

    /// When sample `n` is composed, in ticks of the track before edits.
    pub(super) fn composition_time(&self, n: u32) -> i64 {
        self.decode_time(n).cast_signed() + i64::from(self.composition_offset(n))
    }

    /// When the samples from `first` on are composed. One search, however many are taken.
    pub(super) fn composition_times(&self, first: u32) -> impl Iterator<Item = i64> + '_ {
        let mut run = self.time_run_of(first);
        (first..self.count).map(move |n| {
            while run + 1 < self.time_samples.len() && self.time_samples.get(run + 1) <= n {
                run += 1;
            }
            self.decode_time_in(run, n).cast_signed() + i64::from(self.composition_offset(n))
        })
    }

    /// The latest end of a composed sample, in ticks of the track before edits.
    pub(super) fn composition_end(&self) -> i64 {
        self.composition_end
    }

    /// Whether decoding can begin at sample `n` (`stss`).
    pub(super) fn is_sync(&self, n: u32) -> bool {
        assert!(n < self.count, "sample {n} of {}", self.count);
        let at = self.sync_index_at_or_after(n);
        at < self.sync_count() && self.sync_sample(at) == n
    }

    /// The byte of `sdtp` of sample `n`, if the source has them.
    pub(super) fn dependency(&self, n: u32) -> Option<u8> {
        assert!(n < self.count, "sample {n} of {}", self.count);
        self.dependencies.get(n as usize).copied()
    }

    /// How many sync samples there are; at least one.
    pub(super) fn sync_count(&self) -> u32 {
        if self.all_sync {
            self.count
        } else {
            self.syncs.len()
        }
    }

    /// The sample number of sync sample `k`.
    pub(super) fn sync_sample(&self, k: u32) -> u32 {
        if self.all_sync {
            assert!(k < self.count, "sync sample {k} of {}", self.count);
            k
        } else {
            self.syncs.get(k)
        }
    }

    /// The first sync sample composed at `ticks` (of the track, before edits) or later, if any.
    pub(super) fn sync_at_or_after(&self, ticks: i64) -> Option<u32> {
        if self.all_sync && !self.has_composition_offsets() {
            return self.decoded_at_or_after(ticks);
        }
        let k = partition_point(self.sync_count(), |k| {
            self.composition_time(self.sync_sample(k)) < ticks
        });
        (k < self.sync_count()).then(|| self.sync_sample(k))
    }

    /// The first sample decoded at `ticks` or later, if any: found among the runs, of which sound has few.
    fn decoded_at_or_after(&self, ticks: i64) -> Option<u32> {
        let ticks = u64::try_from(ticks).unwrap_or(0);
        let runs = self.time_samples.len();
        let Some(run) = partition_point(runs, |k| self.time_starts.get(k) < ticks).checked_sub(1)
        else {
            return Some(0);
        };
        let end = if run + 1 < runs {
            self.time_samples.get(run + 1)
        } else {
            self.count
        };
        let into = ticks - self.time_starts.get(run);
        // Samples that last no time begin with their run, which is before `ticks`.
        let after = match u64::from(self.time_deltas.get(run)) {
            0 => u64::MAX,
            delta => into.div_ceil(delta),
        };
        let n = u64::from(self.time_samples.get(run)).saturating_add(after);
        let n = u32::try_from(n).unwrap_or(end).min(end);
        (n < self.count).then_some(n)
    }

    /// The first sync sample after sample `n`; the sample count if there is none.
    pub(super) fn sync_after(&self, n: u32) -> u32 {
        let k = self.sync_index_at_or_after(n + 1);
        if k < self.sync_count() {
            self.sync_sample(k)
        } else {
            self.count
        }
    }

    fn sync_index_at_or_after(&self, n: u32) -> u32 {
        if self.all_sync {
            n
        } else {
            partition_point(self.syncs.len(), |k| self.syncs.get(k) < n)
        }
    }

    fn run_of(&self, n: u32) -> u32 {
        assert!(n < self.count, "sample {n} of {}", self.count);
        last_at_or_before(&self.run_samples, n)
    }

    fn time_run_of(&self, n: u32) -> u32 {
        assert!(n < self.count, "sample {n} of {}", self.count);
        last_at_or_before(&self.time_samples, n)
    }
}

/// The last index of `firsts`, which rises from 0, whose value is at most `n`.
fn last_at_or_before(firsts: &U32s, n: u32) -> u32 {
    partition_point(firsts.len(), |k| firsts.get(k) <= n).saturating_sub(1)
}

/// How many of `0..len` satisfy `holds`, which must hold for a prefix: `slice::partition_point` without a slice.
fn partition_point(len: u32, holds: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// A column of little-endian 32-bit numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct U32s(Bytes);

impl U32s {
    /// `bytes` must be whole numbers, fewer than 2^32.
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.0.len() / 4).expect("columns are bounded by MAX_SAMPLES")
    }

    pub(super) fn get(&self, n: u32) -> u32 {
        let at = n as usize * 4;
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("a range of 4 bytes"))
    }
}

/// A column of little-endian 64-bit numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct U64s(Bytes);

impl U64s {
    /// `bytes` must be whole numbers, fewer than 2^32.
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(super) fn get(&self, n: u32) -> u64 {
        let at = n as usize * 8;
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("a range of 8 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32s(numbers: &[u32]) -> U32s {
        U32s::new(numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
    }

    fn u64s(numbers: &[u64]) -> U64s {
        U64s::new(numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
    }

    /// Sound in runs of 3 samples of 10 ticks, 2 of 0, and 4 of 7.
    fn sound(compositions: &[u32]) -> Samples {
        Samples {
            count: 9,
            duration: 58,
            composition_end: 58,
            sizes: u64s(&[0; 10]),
            run_samples: u32s(&[0]),
            run_offsets: u64s(&[0]),
            time_samples: u32s(&[0, 3, 5]),
            time_starts: u64s(&[0, 30, 30]),
            time_deltas: u32s(&[10, 0, 7]),
            compositions: u32s(compositions),
            syncs: U32s::default(),
            all_sync: true,
            dependencies: Bytes::new(),
        }
    }

    #[test]
    fn a_walk_and_a_search_find_the_same_times() {
        for samples in [sound(&[]), sound(&[3, 0, 9, 1, 1, 2, 0, 5, 4])] {
            for first in 0..samples.count {
                let walked: Vec<_> = samples.composition_times(first).collect();
                let searched = (first..samples.count).map(|n| samples.composition_time(n));
                assert_eq!(walked, searched.collect::<Vec<_>>(), "from {first}");
            }
        }
    }

    #[test]
    fn the_first_sample_at_or_after_an_instant_is_found_by_runs() {
        let samples = sound(&[]);
        for ticks in -2..70 {
            let one_by_one = (0..samples.count).find(|n| samples.composition_time(*n) >= ticks);
            assert_eq!(samples.sync_at_or_after(ticks), one_by_one, "tick {ticks}");
        }
    }

    #[test]
    fn the_sync_sample_after_another_is_found() {
        let mut samples = sound(&[]);
        assert_eq!((samples.sync_after(3), samples.sync_after(8)), (4, 9));
        samples.all_sync = false;
        samples.syncs = u32s(&[0, 4, 7]);
        let after = [0, 3, 4, 7, 8].map(|n| samples.sync_after(n));
        assert_eq!(after, [4, 4, 7, 9, 9]);
    }
}
