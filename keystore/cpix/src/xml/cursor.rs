use super::namespace::Namespace;
use super::{Attribute, Element};
use crate::error::{Faults, Place, Position};

/// An element that knows the way to it.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    element: &'a Element,
    parent: Option<&'a Cursor<'a>>,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn root(element: &'a Element) -> Self {
        Self {
            element,
            parent: None,
        }
    }

    pub(crate) const fn element(&self) -> &'a Element {
        self.element
    }

    pub(crate) fn text(&self) -> &'a str {
        self.element.text.as_str().trim_ascii()
    }

    /// The children, in their order.
    pub(crate) fn children(&'a self) -> impl Iterator<Item = Cursor<'a>> {
        self.element.children.iter().map(|element| Self {
            element,
            parent: Some(self),
        })
    }

    /// The children of a name.
    pub(crate) fn all(
        &'a self,
        namespace: Namespace,
        local: &str,
    ) -> impl Iterator<Item = Cursor<'a>> {
        self.children()
            .filter(move |child| child.element.is(namespace, local))
    }

    /// The only child of a name; a second one is a fault.
    pub(crate) fn one(
        &'a self,
        namespace: Namespace,
        local: &str,
        faults: &mut Faults,
    ) -> Option<Cursor<'a>> {
        let mut found = self.all(namespace, local);
        let first = found.next();
        if let Some(second) = found.next() {
            second.fault(faults, format!("only one {local} may stand here"));
        }
        first
    }

    /// The only child of a name, which must be there.
    pub(crate) fn required(
        &'a self,
        namespace: Namespace,
        local: &str,
        faults: &mut Faults,
    ) -> Option<Cursor<'a>> {
        let found = self.one(namespace, local, faults);
        if found.is_none() {
            self.fault(faults, format!("{local} is missing"));
        }
        found
    }

    /// Attributes have no namespace in CPIX.
    pub(crate) fn attribute(&self, name: &str) -> Option<&'a str> {
        self.element.attribute(name).map(|it| it.value.as_str())
    }

    pub(crate) fn fault(&self, faults: &mut Faults, reason: impl Into<String>) {
        faults.add(self.place(), reason);
    }

    /// A fault of an attribute; of the element, where it is missing.
    pub(crate) fn attribute_fault(
        &self,
        name: &str,
        faults: &mut Faults,
        reason: impl Into<String>,
    ) {
        faults.add(self.attribute_place(name), reason);
    }

    pub(crate) fn place(&self) -> Place {
        self.place_of(None)
    }

    pub(crate) fn attribute_place(&self, name: &str) -> Place {
        let mut place = self.place_of(self.element.attribute(name));
        if self.element.attribute(name).is_none() {
            place.path.extend(["/@", name]);
        }
        place
    }

    fn place_of(&self, attribute: Option<&Attribute>) -> Place {
        let mut path = String::new();
        self.push_path(&mut path);
        let mut position = self.element.position;
        if let Some(attribute) = attribute {
            path.extend(["/@", &attribute.name]);
            position = attribute.position;
        }
        Place { path, position }
    }

    fn push_path(&self, path: &mut String) {
        let Element { local, ordinal, .. } = self.element;
        match self.parent {
            None => path.extend(["/", local]),
            Some(parent) => {
                parent.push_path(path);
                path.push_str(&format!("/{local}[{ordinal}]"));
            }
        }
    }
}

/// The place of an element while its document is still being read.
pub(super) fn place_in(open: &[Element], position: Position) -> Place {
    let path = open
        .iter()
        .enumerate()
        .fold(String::new(), |path, (at, element)| match at {
            0 => format!("/{}", element.local),
            _ => format!("{path}/{}[{}]", element.local, element.ordinal),
        });
    let path = if path.is_empty() {
        "/".to_owned()
    } else {
        path
    };
    Place { path, position }
}
