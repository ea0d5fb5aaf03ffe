//! XML as text: elements in the order of the calls, attributes in the order given, nothing that changes from
//! one call to the next.

use quick_xml::escape::escape;

use super::push_number;

/// A document being written, indented by two spaces.
pub(crate) struct Xml {
    text: String,
    depth: usize,
}

/// An attribute's name and value; the value is escaped on the way out.
pub(crate) type Attribute<'a> = (&'a str, &'a str);

impl Xml {
    pub(crate) fn new() -> Self {
        Self {
            text: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned(),
            depth: 0,
        }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }

    /// An element around whatever `body` writes.
    pub(crate) fn element(
        &mut self,
        name: &str,
        attributes: &[Attribute<'_>],
        body: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        self.text.push_str(">\n");
        self.depth += 1;
        body(self);
        self.depth -= 1;
        self.indent();
        self.text.extend(["</", name, ">\n"]);
    }

    /// An element without content.
    pub(crate) fn empty(&mut self, name: &str, attributes: &[Attribute<'_>]) {
        self.open(name, attributes);
        self.text.push_str("/>\n");
    }

    /// An element without content whose attributes are numbers, which need no escaping: a manifest has thousands.
    pub(crate) fn numbers(
        &mut self,
        name: &str,
        attributes: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        self.indent();
        self.text.extend(["<", name]);
        for (key, value) in attributes {
            self.text.extend([" ", key, "=\""]);
            push_number(&mut self.text, value);
            self.text.push('"');
        }
        self.text.push_str("/>\n");
    }

    /// An element whose content is text.
    pub(crate) fn text(&mut self, name: &str, attributes: &[Attribute<'_>], text: &str) {
        self.open(name, attributes);
        self.text.extend([">", &escape(text), "</", name, ">\n"]);
    }

    fn open(&mut self, name: &str, attributes: &[Attribute<'_>]) {
        self.indent();
        self.text.extend(["<", name]);
        for (key, value) in attributes {
            self.text.extend([" ", key, "=\"", &escape(*value), "\""]);
        }
    }

    fn indent(&mut self) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m13_escapes_and_indents() {
        let mut xml = Xml::new();
        xml.element("A", &[("b", "x\"&<y>'")], |xml| {
            xml.empty("C", &[]);
            xml.text("D", &[], "a & b");
        });
        assert_eq!(
            xml.finish(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <A b=\"x&quot;&amp;&lt;y&gt;&apos;\">\n  <C/>\n  <D>a &amp; b</D>\n</A>\n"
        );
    }
}
