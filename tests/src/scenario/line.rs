//! A script's lines, as values.

use clustor_engine::outcome::ReadLevel;
use clustor_engine::profile::Value;
use clustor_shards::disk::FileKind;
use clustor_wire::ids::NodeId;

use crate::cluster::messages::MessageKind;
use crate::cluster::network::RuleAction;
use crate::disk::{Crash, Fate};

/// Why a line is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

impl ParseError {
    fn expected(what: &str, found: Option<&str>) -> Self {
        Self(match found {
            Some(found) => format!("expected {what}, found {found:?}"),
            None => format!("expected {what}, found the end of the line"),
        })
    }
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    AtLeast,
    AtMost,
    Above,
    Below,
}

impl Compare {
    pub(super) fn holds(self, left: u64, right: u64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::AtLeast => left >= right,
            Self::AtMost => left <= right,
            Self::Above => left > right,
            Self::Below => left < right,
        }
    }
}

/// `term>=2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) name: String,
    pub(super) compare: Compare,
    pub(super) value: u64,
}

/// What must be the case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expectation {
    Node {
        /// `None` for all that run.
        node: Option<NodeId>,
        role: Option<String>,
        numbers: Vec<Number>,
    },
    Has(NodeId, Vec<String>),
    /// Timers that expired in a machine.
    Expired(NodeId, Vec<String>),
    Leaders(u64),
    /// Partitions that somebody leads.
    Led(u64),
    Sent(NodeId, NodeId, MessageKind, Compare, u64),
    Answer(String, Answer),
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Applied,
    Duplicate,
    Unknown,
    Refused(Option<String>),
    Waiting,
    Begun,
    Sees(Vec<String>),
}

/// What is asked about members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Learn(NodeId),
    Observe(NodeId),
    Forget(NodeId),
    Voters(Vec<NodeId>, Vec<NodeId>),
    Back,
    Transfer(NodeId),
}

/// What becomes of a node's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClockChange {
    /// The boot-time clock jumps ahead, in microseconds.
    Jump(u64),
    /// The boot-time clock runs at so many percent of the wall clock's speed.
    Wild(u64),
    /// Both clocks run at so many percent of the others' speed.
    Drift(u64),
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Nodes(u64),
    /// How many partitions there are; scripts speak of the first.
    Partitions(u64),
    /// Another partition is written to on a node.
    Busy(NodeId),
    Profile(String),
    Seed(u64),
    /// A knob of the profile, on all nodes or on one.
    Set(String, Value, Option<NodeId>),
    /// A running node reads its profile anew, in which these knobs have been turned.
    Reload(NodeId, Vec<(String, Value)>),
    Start(Vec<NodeId>),
    Run(u64),
    Elect(NodeId, bool),
    Append {
        node: NodeId,
        text: String,
        key: Option<u128>,
        known: Option<u64>,
        only_in: Option<u64>,
        name: String,
    },
    Read(NodeId, ReadLevel, String),
    Voters(Vec<NodeId>),
    /// Sets up: whom the placement of a node lists.
    Listed(NodeId, Vec<NodeId>),
    /// Sets up: a node's machines are on disk, and save themselves after so many batches.
    Machines(NodeId, u32),
    /// Asks a node for so many entries of whose answers nothing is made.
    Fill(NodeId, u64),
    /// A question about members to a node, known by a name.
    Members(NodeId, Asked, String),
    Cut(Vec<(NodeId, NodeId)>),
    Heal,
    Rule(NodeId, NodeId, MessageKind, RuleAction),
    Allow,
    Release,
    /// What was copied is sent once more.
    Repeat,
    Freeze(NodeId, bool),
    Fail(NodeId, bool, FileKind),
    Rot(NodeId, FileKind, u64),
    Stall(NodeId, u64),
    Slow(NodeId, u64),
    /// A node's disk takes so long over each write and flush.
    Disk(NodeId, u64),
    /// What becomes of a node's clocks.
    Clock(NodeId, ClockChange),
    Crash(NodeId, Crash, Fate),
    Image(NodeId),
    GoBack(NodeId),
    Empty(NodeId),
    /// A node that is down gives up the entries up to an index.
    Shorten(NodeId, u64),
    Stop(NodeId),
    /// A node asks all others for votes in a term, whatever they would have answered to a pre-vote.
    Stand(NodeId, u64),
    Count,
    Settle,
    Expect(Expectation),
}

/// The words of a line; texts in quotes are one word, with the quote in front.
fn words(line: &str) -> Result<Vec<String>, ParseError> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() && !rest.starts_with('#') {
        let end = if let Some(quoted) = rest.strip_prefix('"') {
            1 + quoted
                .find('"')
                .ok_or_else(|| ParseError(format!("no end of {rest}")))?
        } else {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        };
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start_matches('"').trim_start();
    }
    Ok(words)
}

struct Words<'a>(std::iter::Peekable<std::slice::Iter<'a, String>>);

impl Words<'_> {
    fn next(&mut self, what: &str) -> Result<&str, ParseError> {
        let word = self.0.next();
        word.map(String::as_str)
            .ok_or_else(|| ParseError::expected(what, None))
    }

    fn accept(&mut self, word: &str) -> bool {
        self.0.next_if(|next| *next == word).is_some()
    }

    fn must(&mut self, word: &str) -> Result<(), ParseError> {
        let found = self.next(word)?;
        if found == word {
            Ok(())
        } else {
            Err(ParseError::expected(word, Some(found)))
        }
    }

    fn number(&mut self, what: &str) -> Result<u64, ParseError> {
        let word = self.next(what)?;
        word.parse()
            .map_err(|_| ParseError::expected(what, Some(word)))
    }

    fn node(&mut self) -> Result<NodeId, ParseError> {
        self.number("a node's number").map(NodeId)
    }

    fn nodes(&mut self) -> Result<Vec<NodeId>, ParseError> {
        let mut nodes = Vec::new();
        while self.0.peek().is_some() {
            nodes.push(self.node()?);
        }
        Ok(nodes)
    }

    fn text(&mut self) -> Result<String, ParseError> {
        let word = self.next("a text in quotes")?;
        word.strip_prefix('"')
            .map(str::to_owned)
            .ok_or_else(|| ParseError::expected("a text in quotes", Some(word)))
    }

    fn texts(&mut self) -> Result<Vec<String>, ParseError> {
        let mut texts = Vec::new();
        while self.0.peek().is_some() {
            texts.push(self.text()?);
        }
        Ok(texts)
    }

    /// `200ms` or `3s`, in microseconds.
    fn duration(&mut self) -> Result<u64, ParseError> {
        let what = "a time as 200ms or 3s";
        let word = self.next(what)?;
        let (number, unit) = match (word.strip_suffix("ms"), word.strip_suffix('s')) {
            (Some(number), _) => (number, 1_000),
            (None, Some(number)) => (number, 1_000_000),
            (None, None) => return Err(ParseError::expected(what, Some(word))),
        };
        let number: u64 = number
            .parse()
            .map_err(|_| ParseError::expected(what, Some(word)))?;
        Ok(number * unit)
    }

    fn kind(&mut self) -> Result<MessageKind, ParseError> {
        let word = self.next("a kind of message")?;
        MessageKind::named(word)
            .ok_or_else(|| ParseError::expected("a kind of message", Some(word)))
    }

    fn file(&mut self) -> Result<FileKind, ParseError> {
        match self.next("segment or ledger")? {
            "segment" => Ok(FileKind::Segment),
            "ledger" => Ok(FileKind::Ledger),
            other => Err(ParseError::expected("segment or ledger", Some(other))),
        }
    }

    fn arrow(&mut self) -> Result<(NodeId, NodeId), ParseError> {
        let word = self.next("1->2")?;
        arrow(word).ok_or_else(|| ParseError::expected("1->2", Some(word)))
    }
}

fn arrow(word: &str) -> Option<(NodeId, NodeId)> {
    let (from, to) = word.split_once("->")?;
    Some((NodeId(from.parse().ok()?), NodeId(to.parse().ok()?)))
}

fn number(word: &str) -> Option<Number> {
    let at = word.find(['=', '<', '>'])?;
    let (name, rest) = word.split_at(at);
    let (compare, value) = if let Some(value) = rest.strip_prefix(">=") {
        (Compare::AtLeast, value)
    } else if let Some(value) = rest.strip_prefix("<=") {
        (Compare::AtMost, value)
    } else if let Some(value) = rest.strip_prefix('=') {
        (Compare::Equal, value)
    } else if let Some(value) = rest.strip_prefix('>') {
        (Compare::Above, value)
    } else {
        (Compare::Below, rest.strip_prefix('<')?)
    };
    Some(Number {
        name: name.to_owned(),
        compare,
        value: value.parse().ok()?,
    })
}

/// Reads a line; `None` if it says nothing.
pub(super) fn parse(line: &str) -> Result<Option<Line>, ParseError> {
    let words = words(line)?;
    let mut words = Words(words.iter().peekable());
    if words.0.peek().is_none() {
        return Ok(None);
    }
    let verb = words.next("a command")?.to_owned();
    let line = command(&verb, &mut words)?;
    match words.0.next() {
        None => Ok(Some(line)),
        Some(word) => Err(ParseError(format!("{word:?} is too much here"))),
    }
}

fn command(verb: &str, words: &mut Words<'_>) -> Result<Line, ParseError> {
    Ok(match verb {
        "nodes" => Line::Nodes(words.number("a number of nodes")?),
        "partitions" => Line::Partitions(words.number("a number of partitions")?),
        "busy" => Line::Busy(words.node()?),
        "profile" => Line::Profile(words.next("latency or throughput")?.to_owned()),
        "seed" => Line::Seed(words.number("a seed")?),
        "set" => {
            let (key, value) = knob(words)?;
            let node = words.accept("at").then(|| words.node()).transpose()?;
            Line::Set(key, value, node)
        }
        "reload" => {
            let node = words.node()?;
            let mut knobs = vec![knob(words)?];
            while words.0.peek().is_some() {
                knobs.push(knob(words)?);
            }
            Line::Reload(node, knobs)
        }
        "start" => Line::Start(words.nodes()?),
        "run" => Line::Run(words.duration()?),
        "elect" => {
            let node = words.node()?;
            let at_once = words.accept("at");
            if at_once {
                words.must("once")?;
            }
            Line::Elect(node, at_once)
        }
        "append" => append(words)?,
        "fill" => Line::Fill(words.node()?, words.number("how many entries")?),
        "read" => {
            let node = words.node()?;
            let level = if words.accept("lease") {
                ReadLevel::Lease
            } else if words.accept("local") {
                ReadLevel::Local
            } else {
                ReadLevel::Linearizable
            };
            words.must("as")?;
            Line::Read(node, level, words.next("a name")?.to_owned())
        }
        "voters" => Line::Voters(words.nodes()?),
        "machines" => {
            let node = words.node()?;
            words.must("save")?;
            let every = words.number("after how many batches")?;
            let every = u32::try_from(every).map_err(|e| ParseError(e.to_string()))?;
            Line::Machines(node, every)
        }
        "listed" => Line::Listed(words.node()?, words.nodes()?),
        "change" => change(words)?,
        "transfer" => {
            let (from, to) = words.arrow()?;
            words.must("as")?;
            let name = words.next("a name")?.to_owned();
            Line::Members(from, Asked::Transfer(to), name)
        }
        "cut" => Line::Cut(cut(words)?),
        "heal" => Line::Heal,
        "drop" | "hold" | "copy" => {
            let (from, to) = words.arrow()?;
            let action = match verb {
                "drop" => RuleAction::Drop,
                "hold" => RuleAction::Hold,
                _ => RuleAction::Copy,
            };
            Line::Rule(from, to, words.kind()?, action)
        }
        "allow" => Line::Allow,
        "release" => Line::Release,
        "repeat" => Line::Repeat,
        "freeze" => Line::Freeze(words.node()?, true),
        "thaw" => Line::Freeze(words.node()?, false),
        "fail" => fail(words)?,
        "rot" => Line::Rot(words.node()?, words.file()?, words.number("a block")?),
        "stall" => Line::Stall(words.node()?, words.duration()?),
        "slow" => Line::Slow(words.node()?, words.duration()?),
        "disk" => {
            let node = words.node()?;
            words.must("takes")?;
            Line::Disk(node, words.duration()?)
        }
        "clock" => clock(words)?,
        "crash" => crash(words)?,
        "image" => Line::Image(words.node()?),
        "empty" => Line::Empty(words.node()?),
        "goback" => Line::GoBack(words.node()?),
        "shorten" => Line::Shorten(words.node()?, words.number("an index")?),
        "stop" => Line::Stop(words.node()?),
        "stand" => {
            let node = words.node()?;
            words.must("in")?;
            Line::Stand(node, words.number("a term")?)
        }
        "count" => Line::Count,
        "settle" => Line::Settle,
        "expect" => Line::Expect(expectation(words)?),
        verb => return Err(ParseError::expected("a command", Some(verb))),
    })
}

/// A knob of the profile, and what it is turned to.
fn knob(words: &mut Words<'_>) -> Result<(String, Value), ParseError> {
    let key = words.next("a key of the profile")?.to_owned();
    let value = if words.accept("on") {
        Value::Switch(true)
    } else if words.accept("off") {
        Value::Switch(false)
    } else {
        Value::Number(words.number("its value")?)
    };
    Ok((key, value))
}

fn append(words: &mut Words<'_>) -> Result<Line, ParseError> {
    let (node, mut text) = (words.node()?, words.text()?);
    if words.accept("times") {
        let times = words.number("how many times")?;
        text = text.repeat(usize::try_from(times).map_err(|e| ParseError(e.to_string()))?);
    }
    let key = words
        .accept("key")
        .then(|| words.number("a key"))
        .transpose()?;
    let known = words
        .accept("known")
        .then(|| words.number("an index"))
        .transpose()?;
    let only_in = words
        .accept("in")
        .then(|| words.number("a term"))
        .transpose()?;
    words.must("as")?;
    Ok(Line::Append {
        node,
        text,
        key: key.map(u128::from),
        known,
        only_in,
        name: words.next("a name")?.to_owned(),
    })
}

fn change(words: &mut Words<'_>) -> Result<Line, ParseError> {
    let node = words.node()?;
    let what = "learn, observe, forget, add, remove or back";
    let asked = match words.next(what)?.to_owned().as_str() {
        "learn" => Asked::Learn(words.node()?),
        "observe" => Asked::Observe(words.node()?),
        "forget" => Asked::Forget(words.node()?),
        "back" => Asked::Back,
        verb @ ("add" | "remove") => {
            let (mut add, mut remove) = (Vec::new(), Vec::new());
            let mut adds = verb == "add";
            loop {
                if adds { &mut add } else { &mut remove }.push(words.node()?);
                if words.accept("remove") {
                    adds = false;
                } else if words.0.peek().is_none_or(|next| *next == "as") {
                    break;
                }
            }
            Asked::Voters(add, remove)
        }
        other => return Err(ParseError::expected(what, Some(other))),
    };
    words.must("as")?;
    Ok(Line::Members(node, asked, words.next("a name")?.to_owned()))
}

fn cut(words: &mut Words<'_>) -> Result<Vec<(NodeId, NodeId)>, ParseError> {
    let first = words.next("1 from 2, or 1->2")?.to_owned();
    if let Some(one_way) = arrow(&first) {
        return Ok(vec![one_way]);
    }
    let expected = || ParseError::expected("1 from 2, or 1->2", Some(&first));
    let node = NodeId(first.parse().map_err(|_| expected())?);
    words.must("from")?;
    let others = words.nodes()?;
    Ok(others
        .into_iter()
        .flat_map(|other| [(node, other), (other, node)])
        .collect())
}

fn fail(words: &mut Words<'_>) -> Result<Line, ParseError> {
    let node = words.node()?;
    let flush = match words.next("flush or write")? {
        "flush" => true,
        "write" => false,
        other => return Err(ParseError::expected("flush or write", Some(other))),
    };
    Ok(Line::Fail(node, flush, words.file()?))
}

fn clock(words: &mut Words<'_>) -> Result<Line, ParseError> {
    let node = words.node()?;
    let what = "jumps, runs or drifts";
    let change = match words.next(what)? {
        "jumps" => ClockChange::Jump(words.duration()?),
        "runs" => ClockChange::Wild(words.number("percent")?),
        "drifts" => ClockChange::Drift(words.number("percent")?),
        other => return Err(ParseError::expected(what, Some(other))),
    };
    Ok(Line::Clock(node, change))
}

fn crash(words: &mut Words<'_>) -> Result<Line, ParseError> {
    let node = words.node()?;
    let crash = match words.next("kill or power")? {
        "kill" => Crash::Kill,
        "power" => Crash::Power,
        other => return Err(ParseError::expected("kill or power", Some(other))),
    };
    let fate = if words.accept("lost") {
        Fate::Lost
    } else if words.accept("landed") {
        Fate::Landed
    } else if words.accept("torn") {
        Fate::Torn
    } else {
        Fate::Random
    };
    Ok(Line::Crash(node, crash, fate))
}

fn expectation(words: &mut Words<'_>) -> Result<Expectation, ParseError> {
    let subject = words
        .next("a node, all, leaders, sent or a name")?
        .to_owned();
    Ok(match (subject.as_str(), subject.parse::<u64>()) {
        ("led", _) => Expectation::Led(words.number("a number of partitions")?),
        ("leaders", _) => Expectation::Leaders(words.number("a number of leaders")?),
        ("sent", _) => {
            let ((from, to), kind) = (words.arrow()?, words.kind()?);
            let compare = match words.next("= or >=")? {
                "=" => Compare::Equal,
                ">=" => Compare::AtLeast,
                other => return Err(ParseError::expected("= or >=", Some(other))),
            };
            Expectation::Sent(from, to, kind, compare, words.number("a count")?)
        }
        ("all", _) => stands(None, words)?,
        (_, Ok(node)) if words.accept("has") => Expectation::Has(NodeId(node), words.texts()?),
        (_, Ok(node)) if words.accept("expired") => {
            Expectation::Expired(NodeId(node), words.texts()?)
        }
        (_, Ok(node)) => stands(Some(NodeId(node)), words)?,
        _ => Expectation::Answer(subject, answer(words)?),
    })
}

fn stands(node: Option<NodeId>, words: &mut Words<'_>) -> Result<Expectation, ParseError> {
    let (mut role, mut numbers) = (None, Vec::new());
    while words.0.peek().is_some() {
        let word = words.next("a role or a number")?;
        match number(word) {
            Some(number) => numbers.push(number),
            None => role = Some(word.to_owned()),
        }
    }
    Ok(Expectation::Node {
        node,
        role,
        numbers,
    })
}

fn answer(words: &mut Words<'_>) -> Result<Answer, ParseError> {
    Ok(match words.next("what became of it")? {
        "applied" => Answer::Applied,
        "duplicate" => Answer::Duplicate,
        "unknown" => Answer::Unknown,
        "waiting" => Answer::Waiting,
        "begun" => Answer::Begun,
        "sees" => Answer::Sees(words.texts()?),
        "refused" => Answer::Refused(words.0.next().cloned()),
        other => return Err(ParseError::expected("what became of it", Some(other))),
    })
}
