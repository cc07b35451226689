//! What was said already: the commands that open a way stand in a notice, and are not said again
//! when the transfer ends for that very way.

use std::sync::{Mutex, PoisonError};

use culvert_engine::transfer::{tcp_path, udp_path};

/// Remedies that are remembered; a transfer has a few ports.
const REMEMBERED_MAX: usize = 16;

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A text about to be said to people, without a remedy that was said before.
#[must_use]
pub fn unless_said(text: &str) -> String {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    without_said(text, &mut said)
}

fn without_said(text: &str, said: &mut Vec<String>) -> String {
    let begins = [udp_path::REMEDY, tcp_path::REMEDY];
    let Some((what, remedy)) = begins.iter().find_map(|begins| text.split_once(begins)) else {
        return text.to_owned();
    };
    if let Some(rest) = said.iter().find_map(|said| remedy.strip_prefix(said.as_str())) {
        return format!("{what}; see above for how to open it{rest}");
    }
    if said.len() < REMEMBERED_MAX {
        said.push(remedy.to_owned());
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_is_said_once_and_what_failed_every_time() {
        let mut said = Vec::new();
        let mut say = |text: &str| without_said(text, &mut said);
        let notice = "UDP from a to b does not pass: open UDP port 7273 on b";
        assert_eq!(say(notice), notice);
        let brief = "UDP from a to b does not pass; see above for how to open it";
        assert_eq!(say(notice), brief);
        assert_eq!(say(&format!("{notice}; it is tried again")), format!("{brief}; it is tried again"));
        assert_eq!(say(&format!("b: {notice}")), format!("b: {brief}"));
        let other = "UDP from a to b does not pass: open UDP port 7280 on b";
        assert_eq!(say(other), other, "another remedy");
        assert_eq!(say("a disk is full"), "a disk is full");
    }
}
