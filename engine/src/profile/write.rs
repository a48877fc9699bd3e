//! A profile as a file: every knob with its meaning, limits and when a new value is obeyed.

use core::fmt::Write as _;

use super::Profile;

/// Comments are wrapped at this many characters.
const WIDTH: usize = 110;

impl Profile {
    /// The file of this profile, complete: every knob under a comment that says what it means, what it may stand at, when
    /// to change it, and when a change is obeyed. `head` becomes the comment at the top, a line for each of its lines.
    /// Reading the file again gives this profile.
    #[must_use]
    pub fn to_toml(&self, head: &str) -> String {
        let mut text = String::new();
        for line in head.lines() {
            comment(&mut text, line);
        }
        let mut section = "";
        for knob in Self::KNOBS {
            if knob.section != section {
                section = knob.section;
                let _ = write!(text, "\n# ---- {section}\n");
            }
            text.push('\n');
            let meaning: Vec<&str> = knob.meaning.iter().map(|line| line.trim()).collect();
            comment(&mut text, &meaning.join(" "));
            let narrower: Vec<String> = knob
                .narrower()
                .map(|(base, allowed)| format!(", with base = \"{base}\" {allowed}"))
                .collect();
            let narrower = narrower.concat();
            let takes = format!("Takes {}{narrower}; obeyed {}.", knob.allowed, knob.when);
            comment(&mut text, &takes);
            let value = self.get(knob.key).expect("every knob has a value");
            let _ = writeln!(text, "{} = {value}", knob.key);
        }
        text
    }
}

/// Puts a comment, wrapped between words.
fn comment(text: &mut String, line: &str) {
    let mut width = WIDTH + 1;
    for word in line.split(' ') {
        let chars = word.chars().count();
        if width + 1 + chars > WIDTH {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push('#');
            width = 1;
        }
        text.push(' ');
        text.push_str(word);
        width += 1 + chars;
    }
    // An empty line of the head stays a bare comment sign.
    if text.ends_with(' ') {
        text.pop();
    }
    text.push('\n');
}
