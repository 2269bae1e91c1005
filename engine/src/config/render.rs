//! `config show`: what applies, as TOML, with who set it behind each value.

use std::fmt::Write;

use toml::{Table, Value};

use super::Loaded;
use super::schema::{Path, Schema, dotted, quoted};
use vigie_actors::secret::REDACTED;

impl Loaded {
    /// The effective config as TOML. Secrets are `[redacted]`; what is not set and has no default is
    /// left out.
    pub(crate) fn render(&self) -> String {
        let tree = Table::try_from(&self.config).expect("the types serialise, or no test passes");
        let mut page = Page {
            loaded: self,
            schema: Schema::new(),
            text: String::new(),
        };
        page.section(&mut Vec::new(), &tree);
        page.text
    }
}

struct Page<'a> {
    loaded: &'a Loaded,
    schema: Schema,
    text: String,
}

impl Page<'_> {
    /// Keys first, then what has a header of its own: after a header TOML cannot go back.
    fn section(&mut self, path: &mut Path, table: &Table) {
        let (below, keys): (Vec<_>, Vec<_>) =
            table.iter().partition(|(_, value)| has_header(value));
        if !keys.is_empty() && !path.is_empty() {
            self.header(&format!("[{}]", dotted(path)));
        }
        self.keys(path, keys);
        for (name, value) in below {
            path.push(name.clone());
            match value {
                Value::Table(table) => self.section(path, table),
                Value::Array(list) => self.list(path, list),
                _ => {}
            }
            path.pop();
        }
    }

    fn list(&mut self, path: &mut Path, list: &[Value]) {
        for (index, element) in list.iter().enumerate() {
            self.header(&format!("[[{}]]", dotted(path)));
            path.push(index.to_string());
            self.keys(path, element.as_table().into_iter().flatten());
            path.pop();
        }
    }

    fn header(&mut self, header: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let _infallible = writeln!(self.text, "{gap}{header}");
    }

    fn keys<'v>(
        &mut self,
        path: &mut Path,
        keys: impl IntoIterator<Item = (&'v String, &'v Value)>,
    ) {
        for (name, value) in keys {
            path.push(name.clone());
            let value = if self.schema.is_secret(path) {
                Value::String(REDACTED.to_owned())
            } else {
                value.clone()
            };
            // A path may hold anything, a comment ends with its line.
            let origin = self.loaded.origins.of(&dotted(path)).to_string();
            let origin = origin.replace(char::is_control, "?");
            let _infallible = writeln!(self.text, "{} = {value}  # {origin}", quoted(name));
            path.pop();
        }
    }
}

fn has_header(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(list) => list.first().is_some_and(Value::is_table),
        _ => false,
    }
}
