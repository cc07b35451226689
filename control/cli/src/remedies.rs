//! Avoids repeating remedies: a notice contains the commands that open a blocked path, and the
//! error with which the transfer ends later refers to them.

use std::sync::{Mutex, PoisonError};

use culvert_engine::transfer::{tcp_path, udp_path};

/// Number of remedies that are remembered; a transfer uses only a few ports.
const REMEMBERED_MAX: usize = 16;

static SHOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// `text` without a remedy that this process has shown before.
#[must_use]
pub fn without_repetition(text: &str) -> String {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    without_shown(text, &mut shown)
}

fn without_shown(text: &str, shown: &mut Vec<String>) -> String {
    let separators = [udp_path::REMEDY, tcp_path::REMEDY];
    let Some((what, remedy)) = separators.iter().find_map(|separator| text.split_once(separator)) else {
        return text.to_owned();
    };
    if let Some(rest) = shown.iter().find_map(|shown| remedy.strip_prefix(shown.as_str())) {
        return format!("{what}; see above for how to open it{rest}");
    }
    if shown.len() < REMEMBERED_MAX {
        shown.push(remedy.to_owned());
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_is_shown_once_and_the_failure_every_time() {
        let mut shown = Vec::new();
        let mut show = |text: &str| without_shown(text, &mut shown);
        let notice = "UDP from a to b does not pass: open UDP port 7273 on b";
        assert_eq!(show(notice), notice);
        let brief = "UDP from a to b does not pass; see above for how to open it";
        assert_eq!(show(notice), brief);
        assert_eq!(show(&format!("{notice}; it is tried again")), format!("{brief}; it is tried again"));
        assert_eq!(show(&format!("b: {notice}")), format!("b: {brief}"));
        let other = "UDP from a to b does not pass: open UDP port 7280 on b";
        assert_eq!(show(other), other, "another remedy");
        assert_eq!(show("a disk is full"), "a disk is full");
    }
}
