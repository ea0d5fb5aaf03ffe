//! A DASH MPD (ISO/IEC 23009-1): static, SegmentTemplate with SegmentTimeline, number or time addressing.

use std::time::Duration;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use url::Url;

use super::{
    Licence, Menu, SEGMENT_LIMIT, Segment, Signalled, Track, Unplayable, key_id, number, resolve,
};
use crate::mp4::Scheme;

/// Depth of elements; an MPD needs eight.
const DEPTH_LIMIT: usize = 32;

/// ClearKey's system id in `schemeIdUri` (W3C EME, DASH-IF).
const CLEARKEY: &str = "urn:uuid:e2719d58-a985-b3c9-781a-b030af78d30e";
/// The descriptor of common encryption itself (ISO/IEC 23001-7 11.2).
const COMMON: &str = "urn:mpeg:dash:mp4protection:2011";

/// Reads an MPD that was fetched from `url`.
///
/// # Errors
/// Where it is not XML, or lacks what a player of static SegmentTemplate content needs.
pub fn read(url: &Url, text: &str) -> Result<Menu<Track>, Unplayable> {
    let mpd = Element::parse(text)?;
    let period = mpd.child("Period").ok_or(Unplayable::Missing("Period"))?;
    let base = period.base(&mpd.base(url)?)?;
    let mut menu = Menu {
        main: Vec::new(),
        audio: Vec::new(),
    };
    for set in period.children("AdaptationSet") {
        let base = set.base(&base)?;
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

/// `video`, `audio`, or another word for what is not played here.
fn content_type<'a>(set: &'a Element, representation: &'a Element) -> &'a str {
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
    let base = representation.base(base)?;
    let bandwidth = representation.attribute("bandwidth").unwrap_or_default();
    let template = Template {
        levels: [
            representation.child("SegmentTemplate"),
            set.child("SegmentTemplate"),
        ],
        id,
        bandwidth,
    };
    Ok(Track {
        name: id.to_owned(),
        bandwidth: bandwidth.parse().unwrap_or(0),
        init: resolve(
            &base,
            &template.expand(template.required("initialization")?, 0, 0),
        )?,
        segments: template.segments(&base)?,
        protection: protection(&[set, representation])?,
    })
}

/// A SegmentTemplate; what a Representation leaves out counts from its AdaptationSet.
struct Template<'a> {
    levels: [Option<&'a Element>; 2],
    id: &'a str,
    bandwidth: &'a str,
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

    fn segments(&self, base: &Url) -> Result<Vec<Segment>, Unplayable> {
        let media = self.required("media")?;
        let timeline = self
            .levels
            .iter()
            .flatten()
            .find_map(|level| level.child("SegmentTimeline"));
        let timeline = timeline.ok_or(Unplayable::Missing("SegmentTimeline"))?;
        let mut segment = number("@startNumber", self.attribute("startNumber").unwrap_or("1"))?;
        let mut time = 0_u64;
        let timescale = number("@timescale", self.attribute("timescale").unwrap_or("1"))?;
        let mut segments = Vec::new();
        for entry in timeline.children("S") {
            if let Some(start) = entry.attribute("t") {
                time = number("S@t", start)?;
            }
            let duration = entry.attribute("d").ok_or(Unplayable::Missing("S@d"))?;
            let duration = number("S@d", duration)?;
            let repeats = number("S@r", entry.attribute("r").unwrap_or("0"))?;
            for _ in 0..=repeats {
                if segments.len() == SEGMENT_LIMIT {
                    return Err(Unplayable::TooMany);
                }
                segments.push(Segment {
                    url: resolve(base, &self.expand(media, segment, time))?,
                    duration: ticks(duration, timescale),
                });
                segment += 1;
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

/// An element by local names: prefixes differ between packagers, the names asked for here do not clash.
#[derive(Debug, Default)]
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    children: Vec<Element>,
    text: String,
}

impl Element {
    fn parse(text: &str) -> Result<Self, Unplayable> {
        let mut reader = Reader::from_str(text);
        let mut open = vec![Self::default()];
        loop {
            match reader.read_event()? {
                Event::Start(tag) => {
                    if open.len() == DEPTH_LIMIT {
                        return Err(Unplayable::unreadable("MPD", "nested too deeply"));
                    }
                    open.push(Self::opened(&tag)?);
                }
                Event::Empty(tag) => {
                    let element = Self::opened(&tag)?;
                    if let Some(parent) = open.last_mut() {
                        parent.children.push(element);
                    }
                }
                Event::End(_) => {
                    if let (Some(element), Some(parent)) = (open.pop(), open.last_mut()) {
                        parent.children.push(element);
                    }
                }
                Event::Text(content) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&content.xml10_content());
                    }
                }
                Event::GeneralRef(reference) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&entity(&reference)?);
                    }
                }
                Event::Eof => break,
                Event::CData(_)
                | Event::Comment(_)
                | Event::Decl(_)
                | Event::PI(_)
                | Event::DocType(_) => {}
            }
        }
        let root = open.pop().and_then(|mut document| document.children.pop());
        root.filter(|root| root.name == "MPD")
            .ok_or(Unplayable::Missing("MPD"))
    }

    fn opened(tag: &BytesStart<'_>) -> Result<Self, Unplayable> {
        let mut element = Self {
            name: local(tag.name().as_ref()),
            ..Self::default()
        };
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(quick_xml::Error::from)?;
            let value = attribute.normalized_value(XmlVersion::Explicit1_0)?;
            element
                .attributes
                .push((local(attribute.key.as_ref()), value.into_owned()));
        }
        Ok(element)
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// `url` with this element's own BaseURL applied.
    fn base(&self, url: &Url) -> Result<Url, Unplayable> {
        self.child("BaseURL")
            .map_or_else(|| Ok(url.clone()), |base| resolve(url, base.text.trim()))
    }
}

fn local(name: &str) -> String {
    name.rsplit(':').next().unwrap_or(name).to_owned()
}

/// The character behind `&amp;` and its like; no others are declared in an MPD.
fn entity(name: &str) -> Result<String, Unplayable> {
    let text = format!("&{name};");
    let resolved = quick_xml::escape::unescape(&text);
    resolved
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Unplayable::unreadable("entity", &text))
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
    fn refuses_an_endless_timeline_and_deep_nesting() {
        let endless = MPD.replace("r=\"1\"", "r=\"99999999999\"");
        assert!(matches!(read(&url(), &endless), Err(Unplayable::TooMany)));
        assert!(matches!(
            read(&url(), &"<a>".repeat(64)),
            Err(Unplayable::Unreadable { .. })
        ));
    }
}
