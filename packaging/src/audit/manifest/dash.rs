//! MPDs (ISO/IEC 23009-1) with every ContentProtection descriptor.

use std::time::Duration;

use reader::manifest::dash::{Template, base, content_type, document};
use reader::manifest::key_id;
use reader::xml::Element;
use url::Url;

use super::{MAX_TRACKS, Signal, Title, Track, Walk, base64};
use crate::audit::fetch::Resource;
use crate::audit::finding::{Fault, Finding, Place};
use crate::audit::system::System;

/// The descriptor of common encryption itself (ISO/IEC 23001-7 11.2).
const COMMON: &str = "urn:mpeg:dash:mp4protection:2011";

/// Reads an MPD that was fetched from `url`; what is wrong with it goes to `findings`.
pub(crate) fn read(url: &Url, text: &str, findings: &mut Vec<Finding>) -> Option<Title> {
    let mpd = match document(text) {
        Ok(mpd) => mpd,
        Err(error) => {
            let place = Place::of(url, None, "MPD");
            findings.push(Finding::new(Fault::Malformed, place, error.to_string()));
            return None;
        }
    };
    let mut walk = Walk { url, findings };
    let mut title = Title {
        url: url.clone(),
        tracks: Vec::new(),
        session: Vec::new(),
        cut: false,
    };
    let whole = mpd.attribute("mediaPresentationDuration");
    let outer = walk.based(&mpd, url, "MPD")?;
    for (number, period) in (1..).zip(mpd.children("Period")) {
        let at = format!("Period[{number}]");
        let lasts = period.attribute("duration").or(whole).and_then(duration);
        let Some(outer) = walk.based(period, &outer, &at) else {
            continue;
        };
        for (number, set) in (1..).zip(period.children("AdaptationSet")) {
            let at = format!("{at}/AdaptationSet[{number}]");
            let Some(outer) = walk.based(set, &outer, &at) else {
                continue;
            };
            for representation in set.children("Representation") {
                let kind = content_type(set, representation);
                if !matches!(kind, "video" | "audio") {
                    continue;
                }
                if title.tracks.len() == MAX_TRACKS {
                    title.cut = true;
                    return Some(title);
                }
                let levels = [representation, set, period];
                let track = walk.track(levels, &outer, &at, kind == "audio", lasts);
                title.tracks.extend(track);
            }
        }
    }
    if title.tracks.is_empty() {
        walk.find(
            Fault::Malformed,
            None,
            "MPD",
            "it has no Representation of video or audio",
        );
    }
    Some(title)
}

impl Walk<'_> {
    /// `url` with the element's BaseURL, unless that is none.
    fn based(&mut self, element: &Element, url: &Url, at: &str) -> Option<Url> {
        match base(element, url) {
            Ok(url) => Some(url),
            Err(error) => {
                self.find(
                    Fault::Malformed,
                    None,
                    &format!("{at}/BaseURL"),
                    error.to_string(),
                );
                None
            }
        }
    }

    fn track(
        &mut self,
        [representation, set, period]: [&Element; 3],
        outer: &Url,
        at: &str,
        is_sound: bool,
        lasts: Option<Duration>,
    ) -> Option<Track> {
        let name = representation.attribute("id").unwrap_or_default();
        let own = format!("{at}/Representation[@id='{name}']");
        let base = self.based(representation, outer, &own)?;
        let number = |key| {
            let value = representation.attribute(key).or_else(|| set.attribute(key));
            value.and_then(|value| value.parse::<u32>().ok())
        };
        let mut track = Track {
            name: name.to_owned(),
            picture: number("width").zip(number("height")),
            is_sound,
            init: None,
            segments: Vec::new(),
            signals: Vec::new(),
            rules: Vec::new(),
        };
        let levels: Vec<_> = [representation, set, period]
            .map(|level| level.child("SegmentTemplate"))
            .to_vec();
        if levels.iter().any(Option::is_some) {
            let template = Template {
                levels,
                id: name,
                bandwidth: representation.attribute("bandwidth").unwrap_or_default(),
                period: lasts,
            };
            match (template.init(&base), template.segments(&base)) {
                (Ok(init), Ok(segments)) => {
                    track.init = Some(init.into());
                    let urls = segments.into_iter().map(|segment| segment.url.into());
                    track.segments = urls.collect();
                }
                (Err(error), _) | (_, Err(error)) => {
                    self.find(Fault::Malformed, Some(name), &own, error.to_string());
                }
            }
        } else {
            track.init = one_file(&[representation, set, period], &base);
        }
        for (level, at) in [(set, at), (representation, own.as_str())] {
            for (number, descriptor) in (1..).zip(level.children("ContentProtection")) {
                let at = format!("{at}/ContentProtection[{number}]");
                if let Some(robustness) = descriptor.attribute("robustness") {
                    let urn = descriptor.attribute("schemeIdUri").unwrap_or_default();
                    let system = System::of_urn(urn);
                    track
                        .rules
                        .push(format!("{system} robustness {robustness}"));
                }
                let signal = self.descriptor(descriptor, name, at);
                track.signals.push(signal);
            }
        }
        Some(track)
    }

    fn descriptor(&mut self, descriptor: &Element, track: &str, at: String) -> Signal {
        let urn = descriptor.attribute("schemeIdUri").unwrap_or_default();
        let mut signal = Signal::new(at, System::of_urn(urn));
        let at = signal.at.clone();
        if urn.trim().eq_ignore_ascii_case(COMMON) {
            signal.scheme = descriptor.attribute("value").map(str::to_owned);
            match descriptor.attribute("default_KID") {
                Some(text) => {
                    // A list of them is of a track with several keys; the first one is the default of tenc.
                    let first = text.split_whitespace().next().unwrap_or_default();
                    signal.key_id = key_id(first);
                    if signal.key_id.is_none() {
                        let what = "it is no UUID";
                        self.find(
                            Fault::Malformed,
                            Some(track),
                            &format!("{at}/@cenc:default_KID"),
                            what,
                        );
                    }
                }
                None => {
                    let what = "the mp4protection descriptor has no cenc:default_KID";
                    self.find(Fault::KeyIdMissing, Some(track), &at, what);
                }
            }
        }
        for child in &descriptor.children {
            let text = child.text.trim();
            let at = format!("{at}/{}", child.name);
            let taken = match child.name.as_str() {
                "pssh" if signal.system != System::Other => signal.take_pssh(text, self.url),
                "pro" => base64(text).and_then(|object| signal.take_object(&object, self.url)),
                name if name.eq_ignore_ascii_case("laurl") => {
                    let what = match (child.attribute("licenseUrl"), child.attribute("Lic_type")) {
                        (Some(_), _) => "ms:laurl",
                        (None, Some(_)) => "clearkey:Laurl",
                        (None, None) => "dashif:Laurl",
                    };
                    let written = child.attribute("licenseUrl").unwrap_or(text);
                    let url = self.url.join(written);
                    url.map(|url| signal.license_urls.push((what, url)))
                        .map_err(|_| "it is no URL".to_owned())
                }
                _ => Ok(()),
            };
            if let Err(what) = taken {
                self.find(Fault::Malformed, Some(track), &at, what);
            }
        }
        signal
    }
}

/// The init segment of a Representation that is one file: the bytes before its `sidx`, or those that are named.
fn one_file(levels: &[&Element], base: &Url) -> Option<Resource> {
    let segment_base = levels.iter().find_map(|level| level.child("SegmentBase"))?;
    let named = segment_base.child("Initialization");
    let range = named.and_then(|named| named.attribute("range"));
    let index = segment_base.attribute("indexRange");
    let range = match (range, index) {
        (Some(range), _) => {
            let (first, last) = range.split_once('-')?;
            (
                first.parse().ok()?,
                last.parse::<u64>().ok()?.checked_add(1)?,
            )
        }
        (None, Some(index)) => (0, index.split_once('-')?.0.parse().ok()?),
        (None, None) => return None,
    };
    let source = named.and_then(|named| named.attribute("sourceURL"));
    Some(Resource {
        url: base.join(source.unwrap_or_default()).ok()?,
        range: Some(range),
    })
}

/// An `xs:duration` of days, hours, minutes and seconds, as MPDs have it; longer units have no length of their own.
fn duration(text: &str) -> Option<Duration> {
    let (days, time) = text.strip_prefix('P')?.split_once('T')?;
    let mut seconds = match days.strip_suffix('D') {
        Some(days) => days.parse::<f64>().ok()? * 86_400.0,
        None if days.is_empty() => 0.0,
        None => return None,
    };
    let mut number = String::new();
    for char in time.chars() {
        let unit = match char {
            'H' => 3600.0,
            'M' => 60.0,
            'S' => 1.0,
            _ => {
                number.push(char);
                continue;
            }
        };
        seconds += number.parse::<f64>().ok()? * unit;
        number.clear();
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("PT1M1.5S"), Some(Duration::from_millis(61_500)));
        assert_eq!(duration("P1DT1H"), Some(Duration::from_secs(90_000)));
        for text in ["", "P1Y", "PT1", "PTxS", "PT-1S", "P1Y2DT1S"] {
            let read = duration(text);
            assert!(read.is_none_or(|read| read.is_zero()), "{text}: {read:?}");
        }
    }

    const MPD: &str = r#"<MPD mediaPresentationDuration="PT8S"><Period>
      <AdaptationSet contentType="video" width="640" height="360">
        <ContentProtection schemeIdUri="urn:mpeg:dash:mp4protection:2011" value="cenc"/>
        <ContentProtection schemeIdUri="urn:uuid:EDEF8BA9-79D6-4ACE-A3C8-27DCD51D21ED" robustness="HW_SECURE_ALL">
          <ms:laurl licenseUrl="/wv"/><dashif:Laurl>https://other.example/wv</dashif:Laurl><cenc:pssh>AAAA</cenc:pssh>
        </ContentProtection>
        <SegmentTemplate duration="4" initialization="i" media="$Number$"/>
        <Representation id="a"/>
        <Representation id="b"><BaseURL>b.mp4</BaseURL></Representation>
      </AdaptationSet>
      <AdaptationSet mimeType="audio/mp4"><Representation id="c"><BaseURL>c.mp4</BaseURL>
        <SegmentBase indexRange="800-1000"/></Representation></AdaptationSet>
      </Period></MPD>"#;

    #[test]
    fn reads_what_players_would_refuse() {
        let url = Url::parse("https://o.example/v/main.mpd").unwrap();
        let mut findings = Vec::new();
        let title = read(&url, MPD, &mut findings).unwrap();
        let [a, b, c] = title.tracks.as_slice() else {
            panic!("{:?}", title.tracks)
        };
        assert_eq!((a.picture, a.segments.len()), (Some((640, 360)), 2));
        assert_eq!(b.segments[0].url.path(), "/v/1");
        let init = c.init.as_ref().unwrap();
        assert_eq!((init.url.path(), init.range), ("/v/c.mp4", Some((0, 800))));
        assert!(c.is_sound && c.signals.is_empty());
        let urls: Vec<_> = (a.signals[1].license_urls.iter())
            .map(|(what, url)| (*what, url.as_str()))
            .collect();
        assert_eq!(
            urls,
            [
                ("ms:laurl", "https://o.example/wv"),
                ("dashif:Laurl", "https://other.example/wv")
            ]
        );
        assert_eq!(a.rules, ["Widevine robustness HW_SECURE_ALL"]);
        let found: Vec<_> = (findings.iter())
            .map(|finding| (finding.fault, finding.place.representation.as_deref()))
            .collect();
        let of = |track| {
            [
                (Fault::KeyIdMissing, Some(track)),
                (Fault::Malformed, Some(track)),
            ]
        };
        assert_eq!(found, [of("a"), of("b")].concat());
        assert_eq!(
            findings[1].place.at,
            "Period[1]/AdaptationSet[1]/ContentProtection[2]/pssh"
        );
    }

    #[test]
    fn what_is_no_mpd_is_a_finding() {
        let url = Url::parse("https://o.example/main.mpd").unwrap();
        for text in ["", "<html/>", "<MPD>", "<MPD/>"] {
            let mut findings = Vec::new();
            read(&url, text, &mut findings);
            assert_eq!(findings[0].fault, Fault::Malformed, "{text}");
        }
    }
}
