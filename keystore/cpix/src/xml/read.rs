use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use quick_xml::Reader;
use quick_xml::events::{BytesDecl, BytesStart, Event};

use super::cursor::place_in;
use super::{Attribute, Element, Limits, Namespaces, Reading, namespace, push};
use crate::error::{Error, ErrorKind, Position};

/// Reads one document into a tree.
///
/// # Errors
/// [`ErrorKind::Malformed`] and [`ErrorKind::TooLarge`], with the place; the first one found.
pub(crate) fn read(bytes: &[u8], reading: &Reading) -> Result<Element, Error> {
    let Reading { limits, namespaces } = reading;
    if bytes.len() > limits.bytes {
        let reason = format!("the document has more than {} bytes", limits.bytes);
        return Err(Error::new(ErrorKind::TooLarge, reason));
    }
    // A byte order mark is no part of the text (XML 1.0, 4.3.3).
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = str::from_utf8(bytes).map_err(|error| {
        let good = bytes.split_at(error.valid_up_to()).0;
        let position = Place::default().advance(&String::from_utf8_lossy(good));
        let place = place_in(&[], position);
        Error::at(
            ErrorKind::Malformed,
            Some(place),
            "the document is not UTF-8",
        )
    })?;
    let mut tree = Tree {
        text,
        limits,
        assumed: *namespaces == Namespaces::Assumed,
        place: Place::default(),
        names: HashSet::new(),
        open: Vec::new(),
        siblings: Vec::new(),
        scopes: vec![
            (Arc::from(""), Arc::from("")),
            (Arc::from(namespace::XML.1), Arc::from(namespace::XML.0)),
        ],
        elements: 0,
        root: None,
    };
    tree.read()?;
    (tree.root).ok_or_else(|| Error::new(ErrorKind::Malformed, "the document has no element"))
}

/// Bytes of a name. Names are repeated in the paths of errors.
const MAX_NAME: usize = 128;

/// How far lines and columns have been counted.
#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    position: Position,
}

impl Default for Place {
    fn default() -> Self {
        let position = Position { line: 1, column: 1 };
        Self {
            offset: 0,
            position,
        }
    }
}

impl Place {
    /// The position after `text`.
    fn advance(self, text: &str) -> Position {
        let Position {
            mut line,
            mut column,
        } = self.position;
        for char in text.chars() {
            if char == '\n' {
                line = line.saturating_add(1);
                column = 1;
            } else {
                column = column.saturating_add(1);
            }
        }
        Position { line, column }
    }
}

struct Tree<'a> {
    text: &'a str,
    limits: &'a Limits,
    assumed: bool,
    place: Place,
    /// Namespaces and prefixes, each kept once.
    names: HashSet<Arc<str>>,
    /// The elements around this place, outermost first.
    open: Vec<Element>,
    /// For each of them, how many children of a local name it has.
    siblings: Vec<HashMap<String, u32>>,
    /// Prefixes and namespaces in scope, innermost last.
    scopes: Vec<(Arc<str>, Arc<str>)>,
    elements: usize,
    root: Option<Element>,
}

impl Tree<'_> {
    fn read(&mut self) -> Result<(), Error> {
        let mut reader = Reader::from_str(self.text);
        let config = reader.config_mut();
        config.check_comments = true;
        config.check_end_names = true;
        loop {
            let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
            let event = reader.read_event().map_err(|error| {
                let at = usize::try_from(reader.error_position()).unwrap_or(usize::MAX);
                self.ill_formed(at, &error)
            })?;
            match event {
                Event::Start(tag) => self.start(&tag, at)?,
                Event::Empty(tag) => {
                    self.start(&tag, at)?;
                    self.end(at)?;
                }
                Event::End(_) => self.end(at)?,
                Event::Text(text) if text.contains("]]>") => {
                    return Err(self.fault(at, "']]>' may not stand in text"));
                }
                Event::Text(text) => self.append(&text, at)?,
                Event::CData(text) => self.append(&text, at)?,
                Event::GeneralRef(name) => {
                    let char = reference(&name).map_err(|why| self.fault(at, why))?;
                    self.append(char.encode_utf8(&mut [0; 4]), at)?;
                }
                Event::Decl(declaration) => self.declaration(&declaration, at)?,
                Event::Comment(_) => {}
                Event::PI(_) => {
                    return Err(self.fault(at, "processing instructions are not accepted"));
                }
                Event::DocType(_) => {
                    return Err(self.fault(at, "a document type declaration is not accepted"));
                }
                Event::Eof if self.open.is_empty() => return Ok(()),
                Event::Eof => return Err(self.fault(at, "the document ends in this element")),
            }
        }
    }

    fn declaration(&mut self, declaration: &BytesDecl<'_>, at: usize) -> Result<(), Error> {
        if at != 0 {
            return Err(self.fault(at, "the XML declaration stands first or not at all"));
        }
        if !declaration.version().is_ok_and(|version| version == "1.0") {
            return Err(self.fault(at, "the XML version is 1.0"));
        }
        match declaration.encoding() {
            None => Ok(()),
            Some(Ok(name)) if name.eq_ignore_ascii_case("utf-8") => Ok(()),
            Some(_) => Err(self.fault(at, "the encoding is UTF-8")),
        }
    }

    fn start(&mut self, tag: &BytesStart<'_>, at: usize) -> Result<(), Error> {
        let Limits {
            depth, elements, ..
        } = *self.limits;
        if self.root.is_some() {
            return Err(self.fault(at, "a document has one outermost element"));
        }
        if self.open.len() >= depth {
            return Err(self.too_large(at, format!("elements lie at most {depth} deep")));
        }
        self.elements += 1;
        if self.elements > elements {
            return Err(self.too_large(at, format!("a document has at most {elements} elements")));
        }
        if (self.open.last()).is_some_and(|parent| !is_blank(&parent.text)) {
            return Err(self.fault(at, "an element may not stand beside text"));
        }
        let name = tag.name().into_inner();
        let (prefix, local) = self.split(name, at)?;
        let mut element = Element::new(("", ""), local);
        element.position = self.position(at);
        self.attributes(tag, at, &mut element)?;

        self.scopes.extend(element.declarations.iter().cloned());
        element.namespace = self.resolve(prefix.unwrap_or(""), at)?;
        if self.assumed && element.namespace.is_empty() {
            element.namespace = self.shared(assumed(local));
        }
        element.prefix = prefix.map(|prefix| self.shared(prefix));
        self.check_qualified(&element, at)?;

        if let Some(siblings) = self.siblings.last_mut() {
            let count = siblings.entry(local.to_owned()).or_default();
            *count += 1;
            element.ordinal = *count;
        }
        self.open.push(element);
        self.siblings.push(HashMap::new());
        Ok(())
    }

    fn attributes(
        &mut self,
        tag: &BytesStart<'_>,
        at: usize,
        element: &mut Element,
    ) -> Result<(), Error> {
        let Limits {
            attributes, value, ..
        } = *self.limits;
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| self.ill_formed(at, &error))?;
            let name = attribute.key.into_inner();
            let here = self.offset_of(name).unwrap_or(at);
            if element.attributes.len() + element.declarations.len() >= attributes {
                let reason = format!("an element has at most {attributes} attributes");
                return Err(self.too_large(here, reason));
            }
            if attribute.value.len() > value {
                let reason = format!("an attribute has at most {value} bytes");
                return Err(self.too_large(here, reason));
            }
            let value = attribute_value(&attribute.value).map_err(|why| self.fault(here, why))?;
            match self.split(name, here)? {
                (None, "xmlns") => {
                    let declaration = (self.shared(""), self.shared(&value));
                    element.declarations.push(declaration);
                }
                (Some("xmlns"), "xml" | "xmlns") => {
                    return Err(self.fault(here, "this prefix cannot be declared"));
                }
                (Some("xmlns"), _) if value.is_empty() => {
                    return Err(self.fault(here, "a prefix cannot be undeclared"));
                }
                (Some("xmlns"), prefix) => {
                    let declaration = (self.shared(prefix), self.shared(&value));
                    element.declarations.push(declaration);
                }
                _ => {
                    let position = self.position(here);
                    element.attributes.push(Attribute {
                        name: name.to_owned(),
                        value,
                        position,
                    });
                }
            }
        }
        Ok(())
    }

    /// Prefixes of attributes are declared, and no attribute stands twice by way of two prefixes.
    fn check_qualified(&mut self, element: &Element, at: usize) -> Result<(), Error> {
        let mut seen = Vec::new();
        for attribute in &element.attributes {
            if let Some((prefix, local)) = attribute.name.split_once(':') {
                let name = (self.resolve(prefix, at)?, local);
                if seen.contains(&name) {
                    return Err(self.fault(at, "an attribute stands here twice"));
                }
                seen.push(name);
            }
        }
        Ok(())
    }

    fn end(&mut self, at: usize) -> Result<(), Error> {
        self.siblings.pop();
        // The parser matches the tags.
        let Some(element) = self.open.pop() else {
            return Err(self.fault(at, "this tag ends nothing"));
        };
        let outer = self.scopes.len() - element.declarations.len();
        self.scopes.truncate(outer);
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => self.root = Some(element),
        }
        Ok(())
    }

    fn append(&mut self, text: &str, at: usize) -> Result<(), Error> {
        if let Some(char) = text.chars().find(|char| !is_xml_char(*char)) {
            let reason = format!("XML has no character U+{:04X}", u32::from(char));
            return Err(self.fault(at, reason));
        }
        let limit = self.limits.text;
        let Some(element) = self.open.last_mut() else {
            if is_blank(text) {
                return Ok(());
            }
            return Err(self.fault(at, "text may not stand outside of the outermost element"));
        };
        if !element.children.is_empty() {
            if is_blank(text) {
                return Ok(());
            }
            return Err(self.fault(at, "text may not stand beside an element"));
        }
        if element.text.len() + text.len() > limit {
            let reason = format!("an element has at most {limit} bytes of text");
            return Err(self.too_large(at, reason));
        }
        // Ends of lines are a line feed (XML 1.0, 2.11).
        for (index, line) in text.split('\r').enumerate() {
            if index > 0 && !line.starts_with('\n') {
                push(&mut element.text, "\n");
            }
            push(&mut element.text, line);
        }
        Ok(())
    }

    /// Prefix and local name.
    fn split<'n>(&mut self, name: &'n str, at: usize) -> Result<(Option<&'n str>, &'n str), Error> {
        if name.len() > MAX_NAME {
            return Err(self.too_large(at, format!("a name has at most {MAX_NAME} bytes")));
        }
        let (prefix, local) = match name.split_once(':') {
            Some((prefix, local)) => (Some(prefix), local),
            None => (None, name),
        };
        if prefix.is_none_or(is_name) && is_name(local) {
            Ok((prefix, local))
        } else {
            Err(self.fault(
                at,
                "a name has letters, digits, '-', '_' and '.', and one ':'",
            ))
        }
    }

    fn resolve(&mut self, prefix: &str, at: usize) -> Result<Arc<str>, Error> {
        let mut inner_first = self.scopes.iter().rev();
        match inner_first.find(|(name, _)| **name == *prefix) {
            Some((_, namespace)) => Ok(Arc::clone(namespace)),
            None if self.assumed => Ok(self.shared("")),
            None => Err(self.fault(at, format!("the prefix {prefix:.40} is not declared"))),
        }
    }

    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.names.insert(Arc::clone(&new));
        new
    }

    /// Where `part` of the text stands in it.
    fn offset_of(&self, part: &str) -> Option<usize> {
        let offset = (part.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        (offset < self.text.len()).then_some(offset)
    }

    /// Line and column of an offset. Offsets only go back to report a fault, so a document is counted once.
    fn position(&mut self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        if offset < self.place.offset {
            self.place = Place::default();
        }
        let passed = self.text.get(self.place.offset..offset).unwrap_or_default();
        let position = self.place.advance(passed);
        self.place = Place { offset, position };
        position
    }

    /// The parser's words quote names, never text; but what it takes for a name may be anything.
    fn ill_formed(&mut self, offset: usize, error: &dyn std::error::Error) -> Error {
        let words = error.to_string().replace(char::is_control, "?");
        self.fault(offset, format!("not well-formed XML: {words:.200}"))
    }

    fn fault(&mut self, offset: usize, reason: impl Into<String>) -> Error {
        let position = self.position(offset);
        let place = place_in(&self.open, position);
        Error::at(ErrorKind::Malformed, Some(place), reason)
    }

    fn too_large(&mut self, offset: usize, reason: String) -> Error {
        let position = self.position(offset);
        let place = place_in(&self.open, position);
        Error::at(ErrorKind::TooLarge, Some(place), reason)
    }
}

/// A value as XML 1.0, 3.3.3 has it.
fn attribute_value(raw: &str) -> Result<String, &'static str> {
    let mut value = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find(['&', '<', '\t', '\n', '\r']) {
        let (plain, tail) = rest.split_at(at);
        value.push_str(plain);
        rest = if let Some(tail) = tail.strip_prefix('&') {
            let (name, tail) = tail.split_once(';').ok_or("'&' begins no reference")?;
            value.push(reference(name)?);
            tail
        } else if tail.starts_with('<') {
            return Err("'<' may not stand in an attribute");
        } else {
            value.push(' ');
            (tail.strip_prefix("\r\n")).unwrap_or_else(|| tail.split_at(1).1)
        };
    }
    value.push_str(rest);
    if value.chars().all(is_xml_char) {
        Ok(value)
    } else {
        Err("the attribute has a character that XML has not")
    }
}

/// What stands between `&` and `;`: XML's own five, or a number.
fn reference(name: &str) -> Result<char, &'static str> {
    let digits = match name {
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "amp" => return Ok('&'),
        "apos" => return Ok('\''),
        "quot" => return Ok('"'),
        _ => name.strip_prefix('#').ok_or("entities are not accepted")?,
    };
    let (digits, radix) = match digits.strip_prefix('x') {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    // The standard library would take a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("a character reference is a number");
    }
    (u32::from_str_radix(digits, radix).ok())
        .and_then(char::from_u32)
        .filter(|char| is_xml_char(*char))
        .ok_or("XML has no character of this number")
}

fn is_blank(text: &str) -> bool {
    text.trim_ascii().is_empty()
}

/// `Char` of XML 1.0, 2.2.
const fn is_xml_char(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// `NCName` of Namespaces in XML, but for combining characters.
fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    (chars.next()).is_some_and(|first| first.is_alphabetic() || first == '_')
        && chars.all(|char| char.is_alphanumeric() || matches!(char, '-' | '_' | '.'))
}

/// The namespace that an element without one is taken to be in.
fn assumed(local: &str) -> &'static str {
    let (namespace, _) = match local {
        "Secret" | "PlainValue" | "EncryptedValue" | "ValueMAC" | "MACKey" => namespace::PSKC,
        "EncryptionMethod" | "CipherData" | "CipherValue" => namespace::ENC,
        "X509Data" | "X509Certificate" => namespace::DS,
        _ => namespace::CPIX,
    };
    namespace
}

#[cfg(test)]
mod tests {
    use super::super::write;
    use super::*;

    fn tree(text: &str) -> Element {
        read(text.as_bytes(), &Reading::default()).unwrap()
    }

    #[test]
    fn positions_are_those_of_the_text() {
        let root = tree("<é>\n<!-- éé --><b\n  c='1' d='2'/></é>");
        let child = &root.children[0];
        let at = |line, column| Position { line, column };
        assert_eq!(child.position, at(2, 12));
        assert_eq!(child.attributes[0].position, at(3, 3));
        assert_eq!(child.attributes[1].position, at(3, 9));
    }

    #[test]
    fn values_as_xml_has_them() {
        let root = tree("<a b='1\t2\r\n3&lt;&#x41;&quot;'>&amp;&#65;\r\n<![CDATA[<&]]>\r</a>");
        assert_eq!(root.attributes[0].value, "1 2 3<A\"");
        assert_eq!(*root.text, "&A\n<&\n");
    }

    #[test]
    fn limits() {
        let limits = Limits {
            bytes: 60,
            depth: 2,
            elements: 3,
            attributes: 2,
            value: 3,
            text: 4,
        };
        let kind = |text: &str| {
            let reading = Reading {
                limits,
                ..Reading::default()
            };
            read(text.as_bytes(), &reading)
                .map(drop)
                .map_err(|error| error.kind())
        };
        for good in [
            "<a><b/><c/></a>",
            "<a b='123' xmlns='x'>1234</a>",
            "<a>12<!-- 34 -->34</a>",
            &format!("<a>{}</a>", " ".repeat(4)),
        ] {
            assert_eq!(kind(good), Ok(()), "{good}");
        }
        for bad in [
            "<a><b><c/></b></a>",
            "<a><b/><c/><d/></a>",
            "<a b='1' c='2' d='3'/>",
            "<a b='1' c='2' xmlns='3'/>",
            "<a b='1234'/>",
            "<a>12345</a>",
            "<a>12<!-- -->345</a>",
            "<a>1234&#65;</a>",
            &format!("<a>{}</a>", " ".repeat(60)),
        ] {
            assert_eq!(kind(bad), Err(ErrorKind::TooLarge), "{bad}");
        }
        let long = format!("<{}/>", "a".repeat(MAX_NAME + 1));
        let error = read(long.as_bytes(), &Reading::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }

    /// Siblings of as many names as there may be elements: what is counted for each must not be searched for.
    #[test]
    fn the_largest_documents_are_read_in_time() {
        let limits = Limits::default();
        let many: String = (1..limits.elements)
            .map(|number| format!("<a{number}/>"))
            .collect();
        let root = tree(&format!("<r>{many}</r>"));
        assert_eq!(root.children.len(), limits.elements - 1);
        let same = "<a xmlns:b='c'/>".repeat(limits.elements - 1);
        let root = tree(&format!("<r>{same}</r>"));
        let last = root.children.last().unwrap();
        assert_eq!(usize::try_from(last.ordinal).unwrap(), limits.elements - 1);
    }

    /// What is written means what was read, whatever the prefixes are.
    #[test]
    fn names_survive() {
        for text in [
            "<a xmlns='u:1'><b xmlns=''/><c xmlns='u:2'><d/></c></a>",
            "<p:a xmlns:p='u:1'><p:b xmlns:p='u:2'><p:c/></p:b><p:d/></p:a>",
            "<a><b xmlns='u:1' xmlns:p='u:1'><p:c p:d='&#10;&#9;&lt;'/></b></a>",
            "<a xmlns:cpix='u:1'>  1 &gt; 2 &amp; 3\r4  </a>",
        ] {
            let (one, other) = (tree(text), tree(&write(&tree(text))));
            same(&one, &other);
            assert_eq!(*write(&one), *write(&other));
        }
    }

    fn same(one: &Element, other: &Element) {
        assert_eq!(
            (&one.namespace, &one.local),
            (&other.namespace, &other.local)
        );
        assert_eq!(one.text.trim_ascii(), other.text.trim_ascii());
        let attributes = |element: &Element| {
            let of = element.attributes.iter();
            of.map(|it| (it.name.clone(), it.value.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(attributes(one), attributes(other));
        assert_eq!(one.children.len(), other.children.len());
        for (one, other) in one.children.iter().zip(&other.children) {
            same(one, other);
        }
    }

    /// Elements that are made here find a prefix, or bring one that nothing else has.
    #[test]
    fn new_elements_find_a_prefix() {
        let text = |root: &Element| {
            let text = write(root).to_string();
            text.split_once('\n').unwrap().1.to_owned()
        };
        let mut root = tree("<x:CPIX xmlns:x='urn:dashif:org:cpix' xmlns:pskc='urn:other'/>");
        root.children = vec![
            Element::new(namespace::CPIX, "Data").containing([Element::new(
                namespace::PSKC,
                "Secret",
            )
            .saying("1".to_owned())]),
        ];
        assert_eq!(
            text(&root),
            "<x:CPIX xmlns:x=\"urn:dashif:org:cpix\" xmlns:pskc=\"urn:other\">\n  <x:Data>\n    \
             <pskc:Secret xmlns:pskc=\"urn:ietf:params:xml:ns:keyprov:pskc\">1</pskc:Secret>\n  \
             </x:Data>\n</x:CPIX>\n"
        );
        let clash = Element::new(namespace::PSKC, "Secret").declaring(("urn:other", "pskc"));
        assert_eq!(
            text(&clash),
            "<ns1:Secret xmlns:pskc=\"urn:other\" xmlns:ns1=\"urn:ietf:params:xml:ns:keyprov:pskc\"/>\n"
        );
    }
}
