use crate::codec::CodecConfig;
use crate::presentation::Track;

/// What a manifest says about a video track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) width: u16,
    pub(crate) height: u16,
    /// Width and height of a pixel.
    pixel: (u64, u64),
    /// Pictures a second, as a ratio in lowest terms and then in thousandths.
    pub(crate) rate: Rate,
    /// `SDR`, `PQ` or `HLG`, where the transfer characteristics are known (ITU-T H.273).
    pub(crate) range: Option<&'static str>,
}

/// Pictures a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate {
    thousandths: u64,
    pictures: u64,
    seconds: u64,
}

impl Picture {
    pub(crate) fn of(track: &Track) -> Option<Self> {
        let avc = match track.samples().codec() {
            CodecConfig::Avc(avc) => avc,
            CodecConfig::Aac(_) => return None,
        };
        let aspect = avc.pixel_aspect();
        let range = avc.colour().and_then(|colour| match colour.transfer {
            1 | 6 | 13 => Some("SDR"),
            16 => Some("PQ"),
            18 => Some("HLG"),
            _ => None,
        });
        Some(Self {
            width: avc.width(),
            height: avc.height(),
            pixel: lowest(aspect.horizontal.into(), aspect.vertical.into()),
            rate: Rate::of(track),
            range,
        })
    }

    /// Width to height of the picture, such as `16:9`.
    pub(crate) fn shape(&self) -> String {
        let (width, height) = lowest(
            u64::from(self.width) * self.pixel.0,
            u64::from(self.height) * self.pixel.1,
        );
        format!("{width}:{height}")
    }

    /// Width to height of a pixel, such as `1:1`.
    pub(crate) fn pixel_shape(&self) -> String {
        format!("{}:{}", self.pixel.0, self.pixel.1)
    }

    /// Pictures a second as MPDs have it: `25` or `30000/1001`.
    pub(crate) fn rate_ratio(&self) -> String {
        match self.rate.seconds {
            1 => self.rate.pictures.to_string(),
            seconds => format!("{}/{seconds}", self.rate.pictures),
        }
    }

    /// Pictures a second as HLS has it: three decimals.
    pub(crate) fn rate_decimal(&self) -> String {
        format!(
            "{}.{:03}",
            self.rate.thousandths / 1000,
            self.rate.thousandths % 1000
        )
    }
}

impl Rate {
    /// The rate of a steady track exactly; of any other its average, as a whole number.
    fn of(track: &Track) -> Self {
        let samples = track.samples();
        let (count, total) = (
            u64::from(samples.sample_count()),
            samples.total_duration().max(1),
        );
        let scale = u64::from(track.timescale().get());
        let usual = u64::from(samples.duration(samples.sample_count() / 2)).max(1);
        let steady = (usual * count).abs_diff(total) <= usual;
        let (pictures, seconds) = if steady {
            lowest(scale, usual)
        } else {
            let average =
                (u128::from(count) * u128::from(scale) + u128::from(total) / 2) / u128::from(total);
            (u64::try_from(average).unwrap_or(u64::MAX).max(1), 1)
        };
        Self {
            thousandths: (pictures.saturating_mul(1000) + seconds / 2) / seconds,
            pictures,
            seconds,
        }
    }
}

/// A ratio in lowest terms.
fn lowest(a: u64, b: u64) -> (u64, u64) {
    let (mut x, mut y) = (a.max(1), b.max(1));
    while y > 0 {
        (x, y) = (y, x % y);
    }
    (a.max(1) / x, b.max(1) / x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_in_lowest_terms() {
        assert_eq!(lowest(1280, 720), (16, 9));
        assert_eq!(lowest(30_000, 1001), (30_000, 1001));
        assert_eq!(lowest(90_000, 3600), (25, 1));
    }
}
