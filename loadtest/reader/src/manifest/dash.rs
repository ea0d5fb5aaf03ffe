//! A DASH MPD (ISO/IEC 23009-1): static, SegmentTemplate with SegmentTimeline, number or time addressing.

use std::time::Duration;

use url::Url;

use super::{
    Licence, Menu, SEGMENT_LIMIT, Segment, Signalled, Track, Unplayable, key_id, number, resolve,
};
use crate::mp4::Scheme;
use crate::xml::Element;

/// ClearKey's system id in `schemeIdUri` (W3C EME, DASH-IF).
const CLEARKEY: &str = "urn:uuid:e2719d58-a985-b3c9-781a-b030af78d30e";
/// The descriptor of common encryption itself (ISO/IEC 23001-7 11.2).
const COMMON: &str = "urn:mpeg:dash:mp4protection:2011";

/// Reads an MPD that was fetched from `url`.
///
/// # Errors
/// Where it is not XML, or lacks what a player of static SegmentTemplate content needs.
pub fn read(url: &Url, text: &str) -> Result<Menu<Track>, Unplayable> {
    let mpd = document(text)?;
    let period = mpd.child("Period").ok_or(Unplayable::Missing("Period"))?;
    let base = base(period, &base(&mpd, url)?)?;
    let mut menu = Menu {
        main: Vec::new(),
        audio: Vec::new(),
    };
    for set in period.children("AdaptationSet") {
        let base = self::base(set, &base)?;
        for representation in set.children("Representation") {
            let track = read_track(&base, set, representation)?;
            match content_type(set, representation) {
                "video" => menu.main.push(track),
                "audio" => menu.audio.push(track),
                _ => {}
            }
        }
    }
    if menu.main.is_empty() && menu.audio.is_empty() {
        return Err(Unplayable::Missing("Representation of video or audio"));
    }
    Ok(menu)
}

/// The root element of an MPD.
///
/// # Errors
/// Where it is not XML, or another document.
pub fn document(text: &str) -> Result<Element, Unplayable> {
    let root = Element::parse(text)?;
    (root.name == "MPD")
        .then_some(root)
        .ok_or(Unplayable::Missing("MPD"))
}

/// `url` with the element's own BaseURL applied.
///
/// # Errors
/// Where that is no URL.
pub fn base(element: &Element, url: &Url) -> Result<Url, Unplayable> {
    element
        .child("BaseURL")
        .map_or_else(|| Ok(url.clone()), |base| resolve(url, base.text.trim()))
}

/// `video`, `audio`, or another word for what is not played here.
pub fn content_type<'a>(set: &'a Element, representation: &'a Element) -> &'a str {
    let mime = || {
        set.attribute("mimeType")
            .or_else(|| representation.attribute("mimeType"))
    };
    let word = set
        .attribute("contentType")
        .or_else(mime)
        .unwrap_or_default();
    word.split('/').next().unwrap_or_default()
}

fn read_track(base: &Url, set: &Element, representation: &Element) -> Result<Track, Unplayable> {
    let id = representation
        .attribute("id")
        .ok_or(Unplayable::Missing("Representation@id"))?;
    let base = self::base(representation, base)?;
    let bandwidth = representation.attribute("bandwidth").unwrap_or_default();
    let template = Template {
        levels: [representation, set]
            .map(|level| level.child("SegmentTemplate"))
            .to_vec(),
        id,
        bandwidth,
        period: None,
    };
    Ok(Track {
        name: id.to_owned(),
        bandwidth: bandwidth.parse().unwrap_or(0),
        init: template.init(&base)?,
        segments: template.segments(&base)?,
        protection: protection(&[set, representation])?,
    })
}

/// A SegmentTemplate; what a level leaves out counts from the next one, outwards from the Representation.
#[derive(Debug)]
pub struct Template<'a> {
    /// The element of each level that has one, innermost first.
    pub levels: Vec<Option<&'a Element>>,
    /// Representation@id.
    pub id: &'a str,
    /// Representation@bandwidth, as it is written.
    pub bandwidth: &'a str,
    /// How long the Period lasts, for templates with `@duration`; those with a SegmentTimeline need it not.
    pub period: Option<Duration>,
}

impl<'a> Template<'a> {
    fn attribute(&self, name: &str) -> Option<&'a str> {
        self.levels
            .iter()
            .flatten()
            .find_map(|level| level.attribute(name))
    }

    fn required(&self, name: &'static str) -> Result<&'a str, Unplayable> {
        self.attribute(name).ok_or(Unplayable::Missing(match name {
            "media" => "SegmentTemplate@media",
            _ => "SegmentTemplate@initialization",
        }))
    }

    /// The init segment.
    ///
    /// # Errors
    /// Where the template names none.
    pub fn init(&self, base: &Url) -> Result<Url, Unplayable> {
        resolve(base, &self.expand(self.required("initialization")?, 0, 0))
    }

    /// The media segments, in order of time.
    ///
    /// # Errors
    /// Where the template lacks what numbers or times are counted from.
    pub fn segments(&self, base: &Url) -> Result<Vec<Segment>, Unplayable> {
        let media = self.required("media")?;
        let timeline = self
            .levels
            .iter()
            .flatten()
            .find_map(|level| level.child("SegmentTimeline"));
        let mut segment = number("@startNumber", self.attribute("startNumber").unwrap_or("1"))?;
        let mut time = 0_u64;
        let timescale = number("@timescale", self.attribute("timescale").unwrap_or("1"))?;
        let mut segments = Vec::new();
        let mut push = |segment, time, duration| {
            if segments.len() == SEGMENT_LIMIT {
                return Err(Unplayable::TooMany);
            }
            segments.push(Segment {
                url: resolve(base, &self.expand(media, segment, time))?,
                duration: ticks(duration, timescale),
            });
            Ok(())
        };
        let Some(timeline) = timeline else {
            let missing = Unplayable::Missing("SegmentTimeline");
            let (Some(duration), Some(period)) = (self.attribute("duration"), self.period) else {
                return Err(missing);
            };
            let duration = number("@duration", duration)?;
            let each = ticks(duration, timescale).max(Duration::from_micros(1));
            let count = period.as_micros().div_ceil(each.as_micros());
            for _ in 0..count {
                push(segment, time, duration)?;
                segment = segment.saturating_add(1);
                time = time.saturating_add(duration);
            }
            return Ok(segments);
        };
        for entry in timeline.children("S") {
            if let Some(start) = entry.attribute("t") {
                time = number("S@t", start)?;
            }
            let duration = entry.attribute("d").ok_or(Unplayable::Missing("S@d"))?;
            let duration = number("S@d", duration)?;
            let repeats = number("S@r", entry.attribute("r").unwrap_or("0"))?;
            for _ in 0..=repeats {
                push(segment, time, duration)?;
                segment = segment.saturating_add(1);
                time = time.saturating_add(duration);
            }
        }
        Ok(segments)
    }

    /// Replaces the identifiers of a template (ISO/IEC 23009-1 5.3.9.4.4), widths such as `$Number%05d$` too.
    fn expand(&self, template: &str, segment: u64, time: u64) -> String {
        let mut text = String::with_capacity(template.len() + 16);
        for (part, piece) in template.split('$').enumerate() {
            let (name, format) = piece.split_once('%').unwrap_or((piece, ""));
            let width = format.trim_end_matches('d').parse().unwrap_or(0);
            match name {
                _ if part % 2 == 0 => text.push_str(piece),
                "" => text.push('$'),
                "RepresentationID" => text.push_str(self.id),
                "Bandwidth" => text.push_str(self.bandwidth),
                "Number" => text.push_str(&format!("{segment:0width$}")),
                "Time" => text.push_str(&format!("{time:0width$}")),
                _ => text.push_str(piece),
            }
        }
        text
    }
}

/// So many ticks, for which a viewer's buffer needs no more than microseconds.
fn ticks(count: u64, timescale: u64) -> Duration {
    let micros = u128::from(count) * 1_000_000 / u128::from(timescale.max(1));
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// What the ContentProtection descriptors of set and representation say together.
fn protection(levels: &[&Element]) -> Result<Option<Signalled>, Unplayable> {
    let descriptors = || {
        levels
            .iter()
            .flat_map(|level| level.children("ContentProtection"))
    };
    let of = |scheme: &str| {
        descriptors().find(|d| {
            d.attribute("schemeIdUri")
                .is_some_and(|uri| uri.eq_ignore_ascii_case(scheme))
        })
    };
    let Some(common) = of(COMMON) else {
        return match descriptors().next() {
            Some(_) => Err(Unplayable::Missing("the mp4protection descriptor")),
            None => Ok(None),
        };
    };
    let code = common.attribute("value").unwrap_or_default();
    let scheme = Scheme::from_code(code)
        .ok_or_else(|| Unplayable::unreadable("mp4protection@value", code))?;
    let kid = common
        .attribute("default_KID")
        .ok_or(Unplayable::Missing("@cenc:default_KID"))?;
    let kid = key_id(kid).ok_or_else(|| Unplayable::unreadable("@cenc:default_KID", kid))?;
    let clearkey = of(CLEARKEY).ok_or(Unplayable::Missing("the ClearKey descriptor"))?;
    let laurl = clearkey
        .child("Laurl")
        .ok_or(Unplayable::Missing("Laurl"))?
        .text
        .trim();
    let licence = Url::parse(laurl).map_err(|_| Unplayable::unreadable("Laurl", laurl))?;
    Ok(Some(Signalled {
        scheme,
        kid: Some(kid),
        licence: Licence::ClearKey(licence),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MPD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" xmlns:cenc="urn:mpeg:cenc:2013" type="static">
  <Period id="p0">
    <AdaptationSet contentType="video" mimeType="video/mp4">
      <ContentProtection schemeIdUri="urn:mpeg:dash:mp4protection:2011" value="cbcs"
        cenc:default_KID="9eb4050d-e44b-4802-932e-27d75083e266"/>
      <ContentProtection schemeIdUri="urn:uuid:E2719D58-A985-B3C9-781A-B030AF78D30E" value="ClearKey1.0">
        <dashif:Laurl xmlns:dashif="https://dashif.org/CPS">https://l.example/license/clearkey/demo?a=1&amp;b=2</dashif:Laurl>
      </ContentProtection>
      <SegmentTemplate timescale="1000" initialization="../cbcs/$RepresentationID$/i.mp4">
        <SegmentTimeline><S t="500" d="4000" r="1"/><S d="1500"/></SegmentTimeline>
      </SegmentTemplate>
      <Representation id="v720-2000k" bandwidth="2000000">
        <SegmentTemplate media="../cbcs/$RepresentationID$/~m/$Number%03d$.m4s" startNumber="1"/>
      </Representation>
      <Representation id="v360-600k" bandwidth="600000">
        <BaseURL>low/</BaseURL>
        <SegmentTemplate media="$Time$-$Bandwidth$$$.m4s"/>
      </Representation>
    </AdaptationSet>
    <AdaptationSet mimeType="audio/mp4">
      <SegmentTemplate initialization="a/init.mp4" media="a/$Number$.m4s">
        <SegmentTimeline><S d="1" r="2"/></SegmentTimeline>
      </SegmentTemplate>
      <Representation id="a-en-128k"/>
    </AdaptationSet>
    <AdaptationSet contentType="text"><Representation id="t">
      <SegmentTemplate initialization="t" media="t"><SegmentTimeline/></SegmentTemplate>
    </Representation></AdaptationSet>
  </Period>
</MPD>"#;

    fn url() -> Url {
        Url::parse("http://127.0.0.1:8080/v1/demo/cbcs/main.mpd").unwrap()
    }

    fn paths(segments: &[Segment]) -> Vec<&str> {
        segments.iter().map(|segment| segment.url.path()).collect()
    }

    #[test]
    fn reads_templates_inherited_and_own() {
        let menu = read(&url(), MPD).unwrap();
        let [high, low] = menu.main.as_slice() else {
            panic!("two video representations")
        };
        assert_eq!(high.init.path(), "/v1/demo/cbcs/v720-2000k/i.mp4");
        assert_eq!(
            paths(&high.segments),
            ["001", "002", "003"].map(|n| format!("/v1/demo/cbcs/v720-2000k/~m/{n}.m4s"))
        );
        assert_eq!(
            paths(&low.segments),
            ["500", "4500", "8500"].map(|t| format!("/v1/demo/cbcs/low/{t}-600000$.m4s"))
        );
        assert_eq!((high.bandwidth, low.bandwidth), (2_000_000, 600_000));
        let durations: Vec<_> = high
            .segments
            .iter()
            .map(|segment| segment.duration)
            .collect();
        assert_eq!(durations, [4000, 4000, 1500].map(Duration::from_millis));
        assert_eq!(menu.audio.len(), 1);
        assert_eq!(menu.audio[0].bandwidth, 0);
        assert_eq!(
            menu.audio[0].segments[0].duration,
            Duration::from_secs(1),
            "a timescale of 1"
        );
        assert_eq!(menu.audio[0].segments.len(), 3);
        assert_eq!(menu.audio[0].protection, None);
    }

    #[test]
    fn reads_protection_and_the_licence_url() {
        let menu = read(&url(), MPD).unwrap();
        let signalled = menu.main[0].protection.clone().unwrap();
        assert_eq!(signalled.scheme, Scheme::Cbcs);
        assert_eq!(
            signalled.kid,
            key_id("9eb4050d-e44b-4802-932e-27d75083e266")
        );
        let licence = Url::parse("https://l.example/license/clearkey/demo?a=1&b=2").unwrap();
        assert_eq!(signalled.licence, Licence::ClearKey(licence));
    }

    #[test]
    fn says_what_is_missing() {
        let without = |what: &str, by: &str| read(&url(), &MPD.replace(what, by)).unwrap_err();
        assert_eq!(without("Period", "Other").to_string(), "Period is missing");
        assert_eq!(without("Laurl", "Other").to_string(), "Laurl is missing");
        assert_eq!(without("d=\"1500\"", "").to_string(), "S@d is missing");
        let scheme = without("value=\"cbcs\"", "value=\"rot13\"");
        assert_eq!(
            scheme.to_string(),
            "mp4protection@value cannot be read: rot13"
        );
    }

    #[test]
    fn counts_segments_of_one_duration_to_the_end_of_the_period() {
        let element = Element::parse(
            r#"<SegmentTemplate duration="2" initialization="i" media="$Number$" startNumber="7"/>"#,
        )
        .unwrap();
        let template = |period| Template {
            levels: vec![None, Some(&element)],
            id: "v",
            bandwidth: "",
            period,
        };
        let five = template(Some(Duration::from_secs(5)));
        let segments = five.segments(&url()).unwrap();
        assert_eq!(paths(&segments).last(), Some(&"/v1/demo/cbcs/9"));
        assert!(template(None).segments(&url()).is_err());
        let endless = template(Some(Duration::MAX)).segments(&url());
        assert!(matches!(endless, Err(Unplayable::TooMany)));
    }

    #[test]
    fn refuses_an_endless_timeline_and_deep_nesting() {
        let endless = MPD.replace("r=\"1\"", "r=\"99999999999\"");
        assert!(matches!(read(&url(), &endless), Err(Unplayable::TooMany)));
        assert!(matches!(
            read(&url(), &"<a>".repeat(64)),
            Err(Unplayable::Xml(_))
        ));
    }
}
