//! XML as far as CPIX needs it: elements, attributes, text; nothing that is declared, included or computed.
//!
//! No DTD, no entities but the five that XML itself knows, no processing instructions: each is refused. Comments
//! are skipped. Text beside elements ("mixed content") occurs nowhere in CPIX and is refused.

mod cursor;
mod read;
mod write;

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

pub(crate) use cursor::Cursor;
pub(crate) use read::read;
pub(crate) use write::write;

use crate::error::Position;

/// The namespaces that a document speaks of, with the prefixes under which they are written.
pub(crate) mod namespace {
    /// A namespace's name, and the prefix that it gets where none is in scope.
    pub(crate) type Namespace = (&'static str, &'static str);

    pub(crate) const CPIX: Namespace = ("urn:dashif:org:cpix", "cpix");
    pub(crate) const PSKC: Namespace = ("urn:ietf:params:xml:ns:keyprov:pskc", "pskc");
    pub(crate) const DS: Namespace = ("http://www.w3.org/2000/09/xmldsig#", "ds");
    pub(crate) const ENC: Namespace = ("http://www.w3.org/2001/04/xmlenc#", "enc");
    pub(crate) const SPEKE: Namespace = ("urn:aws:amazon:com:speke", "speke");
    pub(super) const XML: Namespace = ("http://www.w3.org/XML/1998/namespace", "xml");
}

use namespace::Namespace;

/// How much of a document is read. Each limit has a field; the defaults suit a thousand keys for three systems.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the document.
    pub bytes: usize,
    /// Elements within elements. An encrypted key lies 9 deep.
    pub depth: usize,
    /// Elements in all: what a tree of them costs in memory is about 250 bytes each.
    pub elements: usize,
    /// Attributes and namespace declarations of one element.
    pub attributes: usize,
    /// Bytes of one attribute value. `DocumentKey@encryptsKey` lists hundreds of keys.
    pub value: usize,
    /// Bytes of one element's text. A PlayReady Object has 15 kB, and is in base64 three times over in
    /// `ContentProtectionData`.
    pub text: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 20,
            depth: 16,
            elements: 1 << 15,
            attributes: 32,
            value: 16 << 10,
            text: 128 << 10,
        }
    }
}

/// Whether elements must be in the namespaces that the specifications give them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// They must.
    #[default]
    Required,
    /// An element in no namespace counts as the one of CPIX, PSKC, XML Signature or XML Encryption that has its
    /// local name. Key servers in the field forget declarations: for documents from a trusted peer only.
    Assumed,
}

/// How a document is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// How much.
    pub limits: Limits,
    /// How strictly.
    pub namespaces: Namespaces,
}

/// An element. Its text is wiped when it is dropped, since it may be a key.
#[derive(Clone)]
pub(crate) struct Element {
    /// As it was written; `None` for the default namespace, or for an element made here.
    pub(crate) prefix: Option<Arc<str>>,
    /// Empty for none.
    pub(crate) namespace: Arc<str>,
    pub(crate) local: String,
    /// Prefix (empty for the default namespace) and namespace.
    pub(crate) declarations: Vec<(Arc<str>, Arc<str>)>,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) children: Vec<Element>,
    pub(crate) text: Zeroizing<String>,
    pub(crate) position: Position,
    /// Its number among siblings of the name, from 1.
    pub(crate) ordinal: u32,
}

#[derive(Clone)]
pub(crate) struct Attribute {
    /// With its prefix.
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) position: Position,
}

impl Element {
    pub(crate) fn new((namespace, _): Namespace, local: &str) -> Self {
        Self {
            prefix: None,
            namespace: namespace.into(),
            local: local.to_owned(),
            declarations: Vec::new(),
            attributes: Vec::new(),
            children: Vec::new(),
            text: Zeroizing::default(),
            position: Position::default(),
            ordinal: 1,
        }
    }

    /// With `value`, or without the attribute if there is none.
    pub(crate) fn with<'a>(mut self, name: &str, value: impl Into<Option<&'a str>>) -> Self {
        if let Some(value) = value.into() {
            self.set(name, value);
        }
        self
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        match self.attributes.iter_mut().find(|it| it.name == name) {
            Some(attribute) => value.clone_into(&mut attribute.value),
            None => self.attributes.push(Attribute {
                name: name.to_owned(),
                value: value.to_owned(),
                position: Position::default(),
            }),
        }
    }

    pub(crate) fn containing(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// The text must be made in one piece: a string that grows leaves copies behind.
    pub(crate) fn saying(mut self, text: impl Into<Zeroizing<String>>) -> Self {
        self.text = text.into();
        self
    }

    pub(crate) fn declaring(mut self, (namespace, prefix): Namespace) -> Self {
        self.declarations.push((prefix.into(), namespace.into()));
        self
    }

    pub(crate) fn is(&self, (namespace, _): Namespace, local: &str) -> bool {
        self.local == local && *self.namespace == *namespace
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|it| it.name == name)
    }

    /// Whether there is nothing in it: what SPEKE's requests leave for the server to fill.
    pub(crate) fn is_empty(&self) -> bool {
        self.children.is_empty() && self.text.trim_ascii().is_empty()
    }
}

/// Appends without leaving a copy behind: a string that grows by itself does not wipe what it grows out of.
pub(crate) fn push(text: &mut Zeroizing<String>, more: &str) {
    let needed = text.len() + more.len();
    if needed > text.capacity() {
        let mut larger = Zeroizing::new(String::with_capacity(needed.max(2 * text.capacity())));
        larger.push_str(text);
        *text = larger;
    }
    text.push_str(more);
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Element")
            .field("local", &self.local)
            .field("children", &self.children)
            .finish_non_exhaustive()
    }
}
