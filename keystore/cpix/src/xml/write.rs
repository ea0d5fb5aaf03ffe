use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Element, namespace, push};

/// The tree as a document: two spaces for each depth, elements and attributes in their order, so that the same tree
/// is the same bytes.
///
/// A prefix is kept where it still names its namespace. Where none does, it is declared on the spot.
pub(crate) fn write(root: &Element) -> Zeroizing<String> {
    let mut writer = Writer {
        text: Zeroizing::new(String::with_capacity(4096)),
        scopes: vec![("".into(), "".into())],
        depth: 0,
    };
    writer.put("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    writer.element(root);
    writer.text
}

/// Ends of lines and tabs in an attribute would be read as spaces.
const IN_ATTRIBUTE: [char; 7] = ['&', '<', '>', '"', '\t', '\n', '\r'];
const IN_TEXT: [char; 4] = ['&', '<', '>', '\r'];

struct Writer {
    text: Zeroizing<String>,
    /// Prefixes and namespaces in scope, innermost last.
    scopes: Vec<(Arc<str>, Arc<str>)>,
    depth: usize,
}

impl Writer {
    /// The reader bounds the depth, and what is built here is shallow.
    fn element(&mut self, element: &Element) {
        let outer = self.scopes.len();
        self.scopes.extend(element.declarations.iter().cloned());
        let prefix = self.prefix(element, outer);
        let name = match &*prefix {
            "" => element.local.clone(),
            prefix => format!("{prefix}:{}", element.local),
        };
        self.indent();
        self.put("<");
        self.put(&name);
        // Declared by the element itself, or by `prefix` just now.
        for (prefix, namespace) in self.scopes.split_off(outer) {
            match &*prefix {
                "" => self.put(" xmlns=\""),
                prefix => {
                    self.put(" xmlns:");
                    self.put(prefix);
                    self.put("=\"");
                }
            }
            self.escaped(&namespace, &IN_ATTRIBUTE);
            self.put("\"");
            self.scopes.push((prefix, namespace));
        }
        for attribute in &element.attributes {
            self.put(" ");
            self.put(&attribute.name);
            self.put("=\"");
            self.escaped(&attribute.value, &IN_ATTRIBUTE);
            self.put("\"");
        }
        if element.is_empty() {
            self.put("/>\n");
        } else {
            self.put(">");
            if element.children.is_empty() {
                self.escaped(element.text.trim_ascii(), &IN_TEXT);
            } else {
                self.put("\n");
                self.depth += 1;
                for child in &element.children {
                    self.element(child);
                }
                self.depth -= 1;
                self.indent();
            }
            self.put("</");
            self.put(&name);
            self.put(">\n");
        }
        self.scopes.truncate(outer);
    }

    /// The prefix of an element: its own, any that is in scope, or a new one. What it declares itself begins at
    /// `outer`.
    fn prefix(&mut self, element: &Element, outer: usize) -> Arc<str> {
        let namespace = &element.namespace;
        if let Some(own) = &element.prefix
            && self.namespace_of(own).is_some_and(|it| it == namespace)
        {
            return Arc::clone(own);
        }
        let in_scope = (self.scopes.iter().rev())
            .find(|(prefix, it)| it == namespace && self.namespace_of(prefix) == Some(it));
        if let Some((prefix, _)) = in_scope {
            return Arc::clone(prefix);
        }
        let usual = usual_prefix(namespace).to_owned();
        let others = (1..).map(|number: u32| format!("ns{number}"));
        let prefix: Arc<str> = std::iter::once(usual)
            .chain(others)
            .find(|new| {
                self.scopes[outer..]
                    .iter()
                    .all(|(taken, _)| **taken != **new)
            })
            .expect("an element declares fewer prefixes than there are numbers")
            .into();
        self.scopes
            .push((Arc::clone(&prefix), Arc::clone(namespace)));
        prefix
    }

    fn namespace_of(&self, prefix: &str) -> Option<&Arc<str>> {
        let mut inner_first = self.scopes.iter().rev();
        (inner_first.find(|(name, _)| **name == *prefix)).map(|(_, namespace)| namespace)
    }

    fn escaped(&mut self, text: &str, special: &[char]) {
        let mut rest = text;
        while let Some(at) = rest.find(special) {
            let (plain, tail) = rest.split_at(at);
            self.put(plain);
            let (special, tail) = tail.split_at(1);
            self.put(match special {
                "&" => "&amp;",
                "<" => "&lt;",
                ">" => "&gt;",
                "\"" => "&quot;",
                "\t" => "&#9;",
                "\n" => "&#10;",
                _ => "&#13;",
            });
            rest = tail;
        }
        self.put(rest);
    }

    fn indent(&mut self) {
        for _ in 0..self.depth {
            self.put("  ");
        }
    }

    fn put(&mut self, text: &str) {
        push(&mut self.text, text);
    }
}

fn usual_prefix(of: &str) -> &'static str {
    let known = [
        namespace::CPIX,
        namespace::PSKC,
        namespace::DS,
        namespace::ENC,
        namespace::SPEKE,
    ];
    known
        .into_iter()
        .find(|(namespace, _)| *namespace == of)
        .map_or("", |(_, prefix)| prefix)
}
