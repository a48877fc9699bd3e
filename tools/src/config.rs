//! A node's config file, `node.toml`: read strictly, and written for new clusters.
//!
//! What is wrong is said with file, line, key and what was expected; an unknown key with the nearest known one.
//! Relative paths are relative to the config file's directory. Where the other nodes listen, how many shards each
//! has and who holds what is the signed placement's to say, not the config's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clustor_engine::profile::{PROFILE_BYTES_MAX, Profile};
use clustor_engine::security::{
    PLACEMENT_BYTES_MAX, Placement, PlacementKey, Role, TlsFiles, TlsIdentity,
};
use clustor_wire::ids::NodeId;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::files::{self, FileError};

/// The longest config file in bytes.
pub const CONFIG_BYTES_MAX: u64 = 64 * 1024;
const KEY_BYTES_MAX: u64 = 4096;
pub(crate) const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
/// Every key there is, with what it takes; the order in which they are written and explained.
pub const CONFIG_KEYS: [(&str, &str); 12] = [
    ("node", "this node's id in the placement: a number from 0"),
    ("data_dir", "where its shards keep their files: a path"),
    (
        "listen",
        "an IP address and a port; left out: the placement's address of this node",
    ),
    ("ca", "the CA bundle: a path to PEM certificates"),
    ("certificate", "this node's certificate: a path to PEM"),
    ("key", "its private key: a path to PEM, mode 0600"),
    ("placement", "the signed placement: a path"),
    ("placement_key", "the public key that verifies it: a path"),
    (
        "shards",
        "data shards of this node, 1 to 1024; left out: the placement's, which it must equal",
    ),
    (
        "profile",
        "`latency`, `throughput`, `wan`, `zfs`, or a path to a profile that ends in .toml; left out: latency",
    ),
    (
        "log_level",
        "error, warn, info, debug or trace; left out: info",
    ),
    (
        "segment_bytes",
        "size of a segment file in bytes, 1048576 to 4294967296; small ones lower the greatest entry; left out: the profile's",
    ),
];

/// Why a config is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file can't be read.
    #[error("{what}: {error}")]
    File {
        /// Which of the files.
        what: &'static str,
        /// Why.
        error: FileError,
    },
    /// Not TOML.
    #[error("{file}:{line}: not TOML: {why}", file = file.display())]
    Syntax {
        /// The config file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's word.
        why: String,
    },
    /// A key that nobody knows.
    #[error("{file}:{line}: unknown key `{key}`; the nearest known one is `{nearest}`, {expected}", file = file.display())]
    UnknownKey {
        /// The config file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The nearest known key.
        nearest: &'static str,
        /// What that one takes.
        expected: &'static str,
    },
    /// A key that must be there is not.
    #[error("{file}: key `{key}` is missing: {expected}", file = file.display())]
    MissingKey {
        /// The config file.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// A value of another kind or outside its range.
    #[error("{file}:{line}: `{key}` is {found}, expected {expected}", file = file.display())]
    Value {
        /// The config file.
        file: PathBuf,
        /// The line, from 1; 0 where the key was left out.
        line: usize,
        /// The key.
        key: &'static str,
        /// What was found.
        found: String,
        /// What the key takes.
        expected: String,
    },
    /// A file that the config names is not acceptable.
    #[error("{file}:{line}: `{key}`: {why}", file = file.display())]
    Named {
        /// The config file.
        file: PathBuf,
        /// The line, from 1; 0 where the key was left out.
        line: usize,
        /// The key.
        key: &'static str,
        /// What is wrong with what it names.
        why: String,
    },
}

/// A node's config, with every path resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The config file.
    pub file: PathBuf,
    /// This node.
    pub node: NodeId,
    /// Where its shards keep their files.
    pub data_dir: PathBuf,
    /// Where it listens, if not at the placement's address.
    pub listen: Option<SocketAddr>,
    /// Its certificate, key and CA bundle.
    pub tls: TlsFiles,
    /// The signed placement.
    pub placement: PathBuf,
    /// The public key that verifies it.
    pub placement_key: PathBuf,
    /// Its data shards, if said.
    pub shards: Option<u16>,
    /// The profile's name or path.
    pub profile: String,
    /// The log level.
    pub log_level: String,
    /// Size of a segment file in bytes, if said.
    pub segment_bytes: Option<u64>,
    lines: Vec<(&'static str, usize)>,
}

/// What a config names, loaded and checked together: everything a node needs before it writes anything.
#[derive(Debug)]
pub struct NodeParts {
    /// Who this node is.
    pub identity: TlsIdentity,
    /// Who holds what.
    pub placement: Placement,
    /// The tunables, the config's own among them.
    pub profile: Profile,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Data shards of this node.
    pub shards: u16,
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    table: DeTable<'a>,
    lines: Vec<(&'static str, usize)>,
}

impl NodeConfig {
    /// Reads a config file. The files that it names are not opened; [`Self::load_parts`] does that.
    ///
    /// # Errors
    /// [`ConfigError`], with file, line, key and what was expected.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = files::read_text(file, CONFIG_BYTES_MAX).map_err(|error| ConfigError::File {
            what: "config",
            error,
        })?;
        Self::parse(file, &text)
    }

    /// Reads the text of the config file `file`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            file: file.to_owned(),
            line: error.span().map_or(1, |span| line_at(text, span.start)),
            why: error.message().to_owned(),
        })?;
        let mut reader = Reader {
            file,
            text,
            table: table.into_inner(),
            lines: Vec::new(),
        };
        reader.refuse_unknown()?;
        let dir = file.parent().unwrap_or(Path::new("")).to_owned();
        let path = |reader: &mut Reader<'_>, key| reader.string(key).map(|text| dir.join(text));
        let config = Self {
            node: NodeId(reader.required("node", |r, key| r.integer(key, 0, i64::MAX as u64))?),
            data_dir: path(&mut reader, "data_dir")?,
            listen: reader.optional("listen", Reader::address)?,
            tls: TlsFiles {
                ca: path(&mut reader, "ca")?,
                certificate: path(&mut reader, "certificate")?,
                key: path(&mut reader, "key")?,
            },
            placement: path(&mut reader, "placement")?,
            placement_key: path(&mut reader, "placement_key")?,
            shards: reader
                .optional("shards", |r, key| r.integer(key, 1, 1024))?
                .map(|shards| shards as u16),
            profile: match reader.optional("profile", Reader::profile)? {
                None => "latency".to_owned(),
                Some(name) if name.ends_with(".toml") => dir.join(name).display().to_string(),
                Some(name) => name,
            },
            log_level: reader
                .optional("log_level", Reader::log_level)?
                .unwrap_or_else(|| "info".to_owned()),
            segment_bytes: reader
                .optional("segment_bytes", |r, key| r.integer(key, 1 << 20, 4 << 30))?,
            lines: reader.lines,
            file: file.to_owned(),
        };
        Ok(config)
    }

    /// Loads and checks everything that the config names, as of `now`: the identity is this node's and of the
    /// placement's trust domain, the placement names this node, the profile is within its limits.
    ///
    /// # Errors
    /// [`ConfigError`], with the key whose file or value is not acceptable.
    pub fn load_parts(&self, now: SystemTime) -> Result<NodeParts, ConfigError> {
        let key = files::read_text(&self.placement_key, KEY_BYTES_MAX)
            .map_err(|error| self.named("placement_key", error))?;
        let key = PlacementKey::parse(&key).map_err(|error| {
            self.named(
                "placement_key",
                format!("{}: {error}", self.placement_key.display()),
            )
        })?;
        let bytes = files::read(&self.placement, PLACEMENT_BYTES_MAX as u64)
            .map_err(|error| self.named("placement", error))?;
        let placement = Placement::load(&bytes, &key).map_err(|error| {
            self.named(
                "placement",
                format!("{}: {error}", self.placement.display()),
            )
        })?;
        let placed = placement.node(self.node).ok_or_else(|| {
            let known: Vec<_> = placement.nodes().keys().map(NodeId::to_string).collect();
            let expected = format!("a node of the placement: {}", known.join(", "));
            self.value("node", self.node.to_string(), expected)
        })?;
        if self.shards.is_some_and(|shards| shards != placed.shards) {
            let expected = format!("{} as in the placement, or left out", placed.shards);
            let found = self.shards.map_or_else(String::new, |s| s.to_string());
            return Err(self.value("shards", found, expected));
        }
        let identity =
            TlsIdentity::load(&self.tls, now).map_err(|error| self.named("certificate", error))?;
        let id = identity.id();
        if id.role() != &Role::Node(self.node) || id.trust_domain() != placement.trust_domain() {
            let why = format!(
                "{}: is of {id}, expected spiffe://{}/node/{}",
                self.tls.certificate.display(),
                placement.trust_domain(),
                self.node
            );
            return Err(self.named("certificate", why));
        }
        Ok(NodeParts {
            identity,
            profile: self.load_profile()?,
            listen: self.listen.unwrap_or(placed.address),
            shards: placed.shards,
            placement,
        })
    }

    /// The profile file, if it is not a shipped profile.
    #[must_use]
    pub fn profile_file(&self) -> Option<&Path> {
        (!Profile::SHIPPED.contains(&self.profile.as_str())).then(|| Path::new(&self.profile))
    }

    /// Reads the profile that the config names, with the config's own segment size; everything that is wrong with it,
    /// with file, line, key, value and limit.
    ///
    /// # Errors
    /// What is wrong; never empty.
    pub fn judge_profile(&self) -> Result<Profile, Vec<String>> {
        let Some(file) = self.profile_file() else {
            return self.load_profile().map_err(|error| vec![error.to_string()]);
        };
        let text =
            files::read_text(file, PROFILE_BYTES_MAX).map_err(|error| vec![error.to_string()])?;
        Profile::judge(&text, &self.profile)
            .map_err(|wrong| wrong.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        self.load_profile().map_err(|error| vec![error.to_string()])
    }

    /// The text of the profile's file, if it has one and that can be read.
    pub(crate) fn profile_text(&self) -> Option<String> {
        files::read_text(self.profile_file()?, PROFILE_BYTES_MAX).ok()
    }

    fn load_profile(&self) -> Result<Profile, ConfigError> {
        let mut profile = match Profile::shipped(&self.profile) {
            Some(profile) => profile,
            None => {
                let text = files::read_text(Path::new(&self.profile), PROFILE_BYTES_MAX)
                    .map_err(|error| self.named("profile", error))?;
                Profile::parse(&text, &self.profile)
                    .map_err(|error| self.named("profile", error))?
            }
        };
        if let Some(bytes) = self.segment_bytes {
            profile = profile.with_segment_bytes(bytes);
            profile
                .check()
                .map_err(|error| self.named("segment_bytes", error))?;
        }
        Ok(profile)
    }

    /// The text of a new config: what is at its default is left out, paths are written as they are.
    #[must_use]
    pub fn to_text(&self) -> String {
        let quoted = |text: String| toml::Value::String(text).to_string();
        let path = |path: &Path| quoted(path.display().to_string());
        let mut lines = vec![
            ("node", Some(self.node.to_string())),
            ("data_dir", Some(path(&self.data_dir))),
            ("listen", self.listen.map(|at| quoted(at.to_string()))),
            ("ca", Some(path(&self.tls.ca))),
            ("certificate", Some(path(&self.tls.certificate))),
            ("key", Some(path(&self.tls.key))),
            ("placement", Some(path(&self.placement))),
            ("placement_key", Some(path(&self.placement_key))),
            ("shards", self.shards.map(|shards| shards.to_string())),
            ("profile", Some(quoted(self.profile.clone()))),
            ("log_level", Some(quoted(self.log_level.clone()))),
            ("segment_bytes", self.segment_bytes.map(|b| b.to_string())),
        ];
        lines
            .drain(..)
            .filter_map(|(key, value)| value.map(|value| format!("{key} = {value}\n")))
            .collect()
    }

    /// A config for a new cluster's node, all of whose files lie beside it.
    #[must_use]
    pub fn beside(node: NodeId, profile: &str, segment_bytes: Option<u64>) -> Self {
        Self {
            file: PathBuf::from(format!("node-{node}.toml")),
            node,
            data_dir: PathBuf::from(format!("data-{node}")),
            listen: None,
            tls: TlsFiles {
                ca: PathBuf::from("ca.pem"),
                certificate: PathBuf::from(format!("node-{node}.pem")),
                key: PathBuf::from(format!("node-{node}.key")),
            },
            placement: PathBuf::from("placement.toml"),
            placement_key: PathBuf::from("placement.pub"),
            shards: None,
            profile: profile.to_owned(),
            log_level: "info".to_owned(),
            segment_bytes,
            lines: Vec::new(),
        }
    }

    fn line_of(&self, key: &str) -> usize {
        let line = self.lines.iter().find(|(known, _)| *known == key);
        line.map_or(0, |(_, line)| *line)
    }

    fn named(&self, key: &'static str, why: impl ToString) -> ConfigError {
        ConfigError::Named {
            file: self.file.clone(),
            line: self.line_of(key),
            key,
            why: why.to_string(),
        }
    }

    fn value(&self, key: &'static str, found: String, expected: String) -> ConfigError {
        ConfigError::Value {
            file: self.file.clone(),
            line: self.line_of(key),
            key,
            found,
            expected,
        }
    }
}

impl<'a> Reader<'a> {
    fn refuse_unknown(&self) -> Result<(), ConfigError> {
        let unknown = self
            .table
            .keys()
            .filter(|key| !CONFIG_KEYS.iter().any(|(known, _)| key.get_ref() == known))
            .min_by_key(|key| key.span().start);
        let Some(key) = unknown else {
            return Ok(());
        };
        let (nearest, expected) = CONFIG_KEYS
            .into_iter()
            .min_by_key(|(known, _)| strsim::levenshtein(known, key.get_ref()))
            .expect("there are keys");
        Err(ConfigError::UnknownKey {
            file: self.file.to_owned(),
            line: line_at(self.text, key.span().start),
            key: key.get_ref().chars().take(60).collect(),
            nearest,
            expected,
        })
    }

    fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        if self.table.contains_key(key) {
            return read(self, key);
        }
        Err(ConfigError::MissingKey {
            file: self.file.to_owned(),
            key,
            expected: expected_of(key),
        })
    }

    fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        if self.table.contains_key(key) {
            return read(self, key).map(Some);
        }
        Ok(None)
    }

    /// Takes the value of a key that is there.
    fn take(&mut self, key: &'static str) -> Spanned<DeValue<'a>> {
        let value = self.table.remove(key).expect("looked up before");
        self.lines
            .push((key, line_at(self.text, value.span().start)));
        value
    }

    fn refuse(&self, key: &'static str, found: String) -> ConfigError {
        ConfigError::Value {
            file: self.file.to_owned(),
            line: self.lines.last().map_or(0, |(_, line)| *line),
            key,
            found,
            expected: expected_of(key).to_owned(),
        }
    }

    fn integer(&mut self, key: &'static str, min: u64, max: u64) -> Result<u64, ConfigError> {
        let value = self.take(key);
        let shown = shown(value.get_ref());
        value
            .get_ref()
            .as_integer()
            .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok())
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| self.refuse(key, shown))
    }

    fn text(&mut self, key: &'static str) -> Result<String, ConfigError> {
        let value = self.take(key);
        match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => Ok(text.to_string()),
            other => Err(self.refuse(key, shown(other))),
        }
    }

    fn string(&mut self, key: &'static str) -> Result<String, ConfigError> {
        self.required(key, Self::text)
    }

    fn address(&mut self, key: &'static str) -> Result<SocketAddr, ConfigError> {
        let text = self.text(key)?;
        text.parse()
            .map_err(|_| self.refuse(key, format!("\"{text}\"")))
    }

    fn profile(&mut self, key: &'static str) -> Result<String, ConfigError> {
        let text = self.text(key)?;
        if Profile::SHIPPED.contains(&text.as_str()) || text.ends_with(".toml") {
            return Ok(text);
        }
        Err(self.refuse(key, format!("\"{text}\"")))
    }

    fn log_level(&mut self, key: &'static str) -> Result<String, ConfigError> {
        let text = self.text(key)?;
        if LOG_LEVELS.contains(&text.as_str()) {
            return Ok(text);
        }
        Err(self.refuse(key, format!("\"{text}\"")))
    }
}

fn expected_of(key: &str) -> &'static str {
    let known = CONFIG_KEYS.iter().find(|(known, _)| *known == key);
    known.expect("a known key").1
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{}\"", text.chars().take(60).collect::<String>()),
        DeValue::Integer(number) => number.as_str().chars().take(60).collect(),
        other => format!("of type {}", other.type_str()),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
