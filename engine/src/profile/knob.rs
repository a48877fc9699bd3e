//! What a knob is: a number within limits, one of some words, or a switch.

use clustor_shards::disk::FlushKind;
use clustor_shards::log::{Encoding, HashSuite, Mode, OnAuthenticationFailure, Suite};
use clustor_shards::uring::WriterChoice;

use super::limits::NARROWER;

/// What a knob stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(u64),
    /// One of some words.
    Word(&'static str),
    /// On or off.
    Switch(bool),
}

impl core::fmt::Display for Value {
    /// As TOML has it, thousands apart.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Number(number) => f.write_str(&grouped(*number)),
            Self::Word(word) => write!(f, "\"{word}\""),
            Self::Switch(on) => write!(f, "{on}"),
        }
    }
}

/// What a knob may stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// A number from one to the other, both included.
    Number {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// On or off.
    Switch,
    /// On or off, and nothing else.
    Fixed(bool),
}

impl core::fmt::Display for Allowed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Number { min, max } => {
                write!(f, "a number from {} to {}", grouped(*min), grouped(*max))
            }
            Self::Word(words) => {
                for (at, word) in words.iter().enumerate() {
                    let before = match at {
                        0 => "",
                        _ if at + 1 == words.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{before}\"{word}\"")?;
                }
                Ok(())
            }
            Self::Switch => f.write_str("true or false"),
            Self::Fixed(on) => write!(f, "{on}"),
        }
    }
}

/// When a new value is obeyed by a node that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At the next batch of each shard.
    Live,
    /// At the node's next start.
    Restart,
}

impl core::fmt::Display for When {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Live => "while it runs",
            Self::Restart => "at the next start",
        })
    }
}

/// A knob as such, whatever it stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knob {
    /// Its key in a profile file.
    pub key: &'static str,
    /// What it belongs to.
    pub section: &'static str,
    /// What it means, with its unit, and when to change it.
    pub meaning: &'static [&'static str],
    /// What it may stand at.
    pub allowed: Allowed,
    /// When a new value is obeyed.
    pub when: When,
}

impl Knob {
    /// The bases under which it may stand at less, each with what that is.
    pub fn narrower(&self) -> impl Iterator<Item = (&'static str, Allowed)> {
        let of_this = NARROWER.iter().filter(|(key, ..)| *key == self.key);
        of_this.map(|(_, base, allowed)| (*base, *allowed))
    }

    /// What it may stand at in a file that names this base.
    #[must_use]
    pub fn allowed_under(&self, base: &str) -> Allowed {
        let narrower = self.narrower().find(|(of, _)| *of == base);
        narrower.map_or(self.allowed, |(_, allowed)| allowed)
    }
}

/// A type of which each value has a word in profile files.
pub trait Word: Copy + Sized + 'static {
    /// All words, the first for what is usual.
    const WORDS: &'static [&'static str];

    /// The value of this word.
    fn from_word(word: &str) -> Option<Self>;

    /// The word of this value.
    fn word(self) -> &'static str;
}

/// Gives the values of a type their words.
macro_rules! words {
    ($type:ty { $($word:literal => $value:ident,)* }) => {
        impl $crate::profile::knob::Word for $type {
            const WORDS: &'static [&'static str] = &[$($word,)*];

            fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(<$type>::$value),)*
                    _ => None,
                }
            }

            fn word(self) -> &'static str {
                match self {
                    $(<$type>::$value => $word,)*
                }
            }
        }
    };
}

words!(Suite {
    "chacha20-poly1305" => ChaCha20Poly1305,
    "aes-256-gcm" => Aes256Gcm,
    "none" => None,
});

words!(HashSuite {
    "sha256" => Sha256,
    "blake3" => Blake3,
});

words!(Encoding {
    "binary" => Binary,
    "json" => Json,
});

words!(OnAuthenticationFailure {
    "repair" => Repair,
    "quarantine" => Quarantine,
});

words!(Mode {
    "strict" => Strict,
    "group" => Group,
});

words!(FlushKind {
    "fdatasync" => Fdatasync,
    "dsync" => Dsync,
});

words!(WriterChoice {
    "auto" => Auto,
    "registered" => Registered,
    "blocking" => Blocking,
});

/// What the table's kinds have in common: read from a file's value, checked, shown.
pub(super) trait Kind: Copy {
    fn read(value: Value) -> Option<Self>;
    fn show(self) -> Value;
}

impl Kind for u64 {
    fn read(value: Value) -> Option<Self> {
        match value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn show(self) -> Value {
        Value::Number(self)
    }
}

impl Kind for bool {
    fn read(value: Value) -> Option<Self> {
        match value {
            Value::Switch(on) => Some(on),
            _ => None,
        }
    }

    fn show(self) -> Value {
        Value::Switch(self)
    }
}

impl<W: Word> Kind for W {
    fn read(value: Value) -> Option<Self> {
        match value {
            Value::Word(word) => Self::from_word(word),
            _ => None,
        }
    }

    fn show(self) -> Value {
        Value::Word(self.word())
    }
}

impl Allowed {
    /// Whether the value is within.
    #[must_use]
    pub fn admits(&self, value: Value) -> bool {
        match (self, value) {
            (Self::Number { min, max }, Value::Number(number)) => (*min..=*max).contains(&number),
            (Self::Word(words), Value::Word(word)) => words.contains(&word),
            (Self::Switch, Value::Switch(_)) => true,
            (Self::Fixed(only), Value::Switch(on)) => *only == on,
            _ => false,
        }
    }
}

/// Digits in groups of three, as TOML takes them.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}
