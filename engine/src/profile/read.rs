//! A profile from the text of its file, and everything that is wrong with it.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::knob::{Allowed, Knob, Value};
use super::{Profile, ProfileError, nearest};

/// A value's word in an error is cut to this many characters.
const SHOWN_CHARS_MAX: usize = 60;

/// What a file says: its base, and its values with their lines.
pub(super) struct Reading<'a> {
    file: &'a str,
    text: &'a str,
    /// The base's name, if it names one that exists.
    pub base: Option<&'static str>,
    /// Knobs and values, with their lines.
    pub values: Vec<(&'static Knob, Value, usize)>,
    /// What is wrong, in the order of the lines.
    pub wrong: Vec<ProfileError>,
}

impl<'a> Reading<'a> {
    pub fn of(text: &'a str, file: &'a str) -> Self {
        let mut reading = Self {
            file,
            text,
            base: None,
            values: Vec::new(),
            wrong: Vec::new(),
        };
        match DeTable::parse(text) {
            Ok(table) => reading.take(table.get_ref()),
            Err(error) => reading.wrong.push(ProfileError::Malformed {
                file: file.to_owned(),
                line: error.span().map_or(1, |span| line_at(text, span.start)),
                reason: error.message().to_owned(),
            }),
        }
        reading
    }

    /// The line of this key, 0 if the file does not have it.
    pub fn line_of(&self, key: &str) -> usize {
        let line = self.values.iter().find(|(knob, ..)| knob.key == key);
        line.map_or(0, |(.., line)| *line)
    }

    /// Values that the base which the file names does not allow.
    pub fn outside_base(&self) -> Vec<ProfileError> {
        let Some(base) = self.base else {
            return Vec::new();
        };
        let judged = self.values.iter().map(|(knob, value, line)| {
            let allowed = knob.allowed_under(base);
            (!allowed.admits(*value)).then(|| ProfileError::Value {
                file: self.file.to_owned(),
                line: *line,
                key: knob.key,
                value: value.to_string().into(),
                allowed,
                base: Some(base),
            })
        });
        judged.flatten().collect()
    }

    fn take(&mut self, table: &DeTable<'_>) {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = key.get_ref().as_ref();
            let line = line_at(self.text, key.span().start);
            if name == "base" {
                self.take_base(line, value);
            } else if let Some(knob) = Profile::knob(name) {
                self.take_value(knob, line, value);
            } else {
                self.wrong.push(ProfileError::UnknownKey {
                    file: self.file.to_owned(),
                    line,
                    key: cut(name),
                    nearest: nearest(name),
                });
            }
        }
    }

    fn take_base(&mut self, line: usize, value: &Spanned<DeValue<'_>>) {
        let named = match value.get_ref() {
            DeValue::String(name) => Profile::SHIPPED.iter().find(|known| *known == name),
            _ => None,
        };
        match named {
            Some(name) => self.base = Some(name),
            None => self.refuse("base", line, value, Allowed::Word(&Profile::SHIPPED)),
        }
    }

    fn take_value(&mut self, knob: &'static Knob, line: usize, value: &Spanned<DeValue<'_>>) {
        let read = match (value.get_ref(), knob.allowed) {
            (DeValue::Integer(number), Allowed::Number { .. }) => {
                u64::from_str_radix(number.as_str(), number.radix())
                    .ok()
                    .map(Value::Number)
            }
            (DeValue::String(word), Allowed::Word(words)) => words
                .iter()
                .find(|known| *known == word)
                .map(|known| Value::Word(known)),
            (DeValue::Boolean(on), Allowed::Switch) => Some(Value::Switch(*on)),
            _ => None,
        };
        match read.filter(|value| knob.allowed.admits(*value)) {
            Some(value) => self.values.push((knob, value, line)),
            None => self.refuse(knob.key, line, value, knob.allowed),
        }
    }

    fn refuse(
        &mut self,
        key: &'static str,
        line: usize,
        value: &Spanned<DeValue<'_>>,
        allowed: Allowed,
    ) {
        self.wrong.push(ProfileError::Value {
            file: self.file.to_owned(),
            line,
            key,
            value: match value.get_ref() {
                DeValue::String(text) => format!("\"{}\"", cut(text)),
                // As it stands in the file: underscores, signs and all.
                _ => cut(self.text.get(value.span()).unwrap_or("?")),
            }
            .into(),
            allowed,
            base: None,
        });
    }
}

fn cut(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(SHOWN_CHARS_MAX).collect()
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
