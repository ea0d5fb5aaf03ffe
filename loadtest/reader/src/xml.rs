//! XML as manifests use it: a tree of elements by local names. Prefixes differ between packagers, and the names that are
//! asked for here do not clash.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

/// Depth of elements; an MPD needs eight.
const DEPTH_LIMIT: usize = 32;
/// Elements of a document; a day of 2 s segments of different durations has 43,200 for each track.
const ELEMENT_LIMIT: usize = 1_000_000;

/// Why text is not read as XML.
#[derive(Debug, thiserror::Error)]
pub enum NotXml {
    /// It is not well-formed.
    #[error("not well-formed XML: {0}")]
    IllFormed(#[from] quick_xml::Error),
    /// It holds no element.
    #[error("it holds no element")]
    Empty,
    /// It is larger than what is read here.
    #[error("more than {DEPTH_LIMIT} elements deep, or {ELEMENT_LIMIT} in all")]
    TooLarge,
    /// A reference to what is declared nowhere.
    #[error("the entity &{0}; is not known")]
    Entity(String),
}

/// An element.
#[derive(Debug, Default)]
pub struct Element {
    /// Its local name.
    pub name: String,
    /// Local names and values, in their order.
    pub attributes: Vec<(String, String)>,
    /// The elements in it.
    pub children: Vec<Element>,
    /// The text in it, without that of the elements in it.
    pub text: String,
}

impl Element {
    /// Reads a document to its root element. Nothing is declared, included or fetched.
    ///
    /// # Errors
    /// Where it is no XML, or too much.
    pub fn parse(text: &str) -> Result<Self, NotXml> {
        let mut reader = Reader::from_str(text);
        let mut open = vec![Self::default()];
        let mut elements = 0_usize;
        loop {
            match reader.read_event()? {
                Event::Start(tag) => {
                    if open.len() == DEPTH_LIMIT {
                        return Err(NotXml::TooLarge);
                    }
                    open.push(Self::opened(&tag, &mut elements)?);
                }
                Event::Empty(tag) => {
                    let element = Self::opened(&tag, &mut elements)?;
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
        root.ok_or(NotXml::Empty)
    }

    fn opened(tag: &BytesStart<'_>, elements: &mut usize) -> Result<Self, NotXml> {
        *elements += 1;
        if *elements > ELEMENT_LIMIT {
            return Err(NotXml::TooLarge);
        }
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

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The elements in it that have this name.
    pub fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first of them.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }
}

fn local(name: &str) -> String {
    name.rsplit(':').next().unwrap_or(name).to_owned()
}

/// The character behind `&amp;` and its like; no others are declared in an MPD.
fn entity(name: &str) -> Result<String, NotXml> {
    let text = format!("&{name};");
    let resolved = quick_xml::escape::unescape(&text);
    resolved
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| NotXml::Entity(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_by_local_names_and_resolves_what_is_escaped() {
        let root =
            Element::parse("<a:b c:d='1&amp;2'><e/>x&lt;<!-- --><e f=\"g\"/></a:b>").unwrap();
        assert_eq!((root.name.as_str(), root.text.as_str()), ("b", "x<"));
        assert_eq!(root.attribute("d"), Some("1&2"));
        assert_eq!(root.children("e").count(), 2);
        assert!(root.child("e").unwrap().attributes.is_empty());
    }

    #[test]
    fn refuses_what_is_deep_unclosed_or_declared() {
        let deep = "<a>".repeat(DEPTH_LIMIT);
        assert!(matches!(Element::parse(&deep), Err(NotXml::TooLarge)));
        assert!(matches!(
            Element::parse("<a></b>"),
            Err(NotXml::IllFormed(_))
        ));
        assert!(matches!(Element::parse("text"), Err(NotXml::Empty)));
        assert!(matches!(
            Element::parse("<a>&b;</a>"),
            Err(NotXml::Entity(_))
        ));
    }
}
