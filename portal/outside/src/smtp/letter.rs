//! A message in the form in which it is sent (RFC 5322).
//!
//! Subject and recipient may come from people, so nothing in them may become a header of its own.

use culvert_portal_seams::mail::Mail;
use culvert_portal_seams::randomness::{SystemRandomness, bytes};
use lettre::address::{Address, AddressError};
use lettre::message::header::{ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::extension::{MailBodyParameter, MailParameter};
use url::Host;

/// The longest address: 64 bytes, `@`, 255 bytes (RFC 5321 4.5.3.1).
const ADDRESS_BYTES_MAX: usize = 320;
/// The longest subject, in bytes. Longer ones are no subjects.
const SUBJECT_BYTES_MAX: usize = 2_000;

/// A message, ready to be sent.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) to: Address,
    pub(super) bytes: Vec<u8>,
    /// Whether an address in it has letters beyond ASCII.
    is_international: bool,
}

impl Letter {
    /// Writes a message.
    ///
    /// # Errors
    /// A sentence that says what in the message cannot be sent.
    pub(super) fn write(from: &Mailbox, mail: Mail) -> Result<Self, String> {
        let to = address(&mail.to).map_err(|reason| format!("the recipient {:?} cannot be used: {reason}", mail.to))?;
        if mail.subject.contains(char::is_control) {
            return Err("the subject contains a line break or another control character".to_owned());
        }
        if mail.subject.len() > SUBJECT_BYTES_MAX {
            return Err(format!("the subject is longer than {SUBJECT_BYTES_MAX} bytes"));
        }
        let is_international = [&to, &from.email].iter().any(|address| !address.to_string().is_ascii());
        let message = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(mail.subject)
            .message_id(Some(message_id(from)))
            // No answer of a machine, such as that somebody is on vacation (RFC 3834).
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
            .header(MIME_VERSION_1_0)
            .header(ContentType::TEXT_PLAIN)
            .body(with_plain_line_ends(&mail.body))
            .map_err(|error| format!("the message cannot be written: {error}"))?;
        Ok(Self { to, bytes: message.formatted(), is_international })
    }

    /// What the server must be told about the message beside the sender.
    ///
    /// # Errors
    /// A sentence that says what of the message the server does not take.
    pub(super) fn parameters(&self, has_utf8: bool, has_8bit: bool) -> Result<Vec<MailParameter>, String> {
        let mut parameters = Vec::new();
        if self.is_international {
            if !has_utf8 {
                return Err("it takes no addresses with letters beyond ASCII (SMTPUTF8)".to_owned());
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !self.bytes.is_ascii() {
            if !has_8bit {
                return Err("it takes no messages with bytes beyond ASCII (8BITMIME)".to_owned());
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        Ok(parameters)
    }
}

/// Reads a sender: an address, with a name or without.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(super) fn sender(text: &str) -> Result<Mailbox, String> {
    if text.contains(char::is_control) {
        return Err(format!("{text:?} contains a line break or another control character"));
    }
    let mailbox: Mailbox = text.parse().map_err(|error: AddressError| format!("{text:?}: {}", told(error)))?;
    let email = address(mailbox.email.as_ref()).map_err(|reason| format!("{text:?}: {reason}"))?;
    Ok(Mailbox::new(mailbox.name, email))
}

/// Reads an address. A domain of other letters gets its name in ASCII, which every server takes.
fn address(text: &str) -> Result<Address, String> {
    if text.contains(char::is_control) {
        return Err("it contains a line break or another control character".to_owned());
    }
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(format!("it is longer than {ADDRESS_BYTES_MAX} bytes"));
    }
    let address: Address = text.parse().map_err(told)?;
    if address.domain().is_ascii() {
        return Ok(address);
    }
    match Host::parse(address.domain()) {
        Ok(Host::Domain(domain)) => Address::new(address.user(), domain).map_err(told),
        _ => Err(told(AddressError::InvalidDomain)),
    }
}

fn told(error: AddressError) -> String {
    match error {
        AddressError::MissingParts => "it is not of the form name@example.org",
        AddressError::Unbalanced => "an angle bracket lacks the other",
        AddressError::InvalidUser => "what stands before the @ is not valid",
        AddressError::InvalidDomain => "what stands behind the @ is not a domain",
        _ => "it is not an address",
    }
    .to_owned()
}

/// A name for the message that no other has.
fn message_id(from: &Mailbox) -> String {
    let number = u128::from_be_bytes(bytes(&SystemRandomness));
    format!("<{number:032x}@{}>", from.email.domain())
}

/// A text whose lines all end alike. Servers differ in what a lone carriage return is, and in that
/// difference a text could end its message and begin another.
fn with_plain_line_ends(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from() -> Mailbox {
        sender("Example <noreply@example.org>").unwrap()
    }

    fn mail(to: &str, subject: &str, body: &str) -> Mail {
        Mail { to: to.to_owned(), subject: subject.to_owned(), body: body.to_owned() }
    }

    fn written(to: &str, subject: &str, body: &str) -> String {
        let letter = Letter::write(&from(), mail(to, subject, body)).unwrap();
        String::from_utf8(letter.bytes).unwrap()
    }

    #[test]
    fn a_message_has_the_headers_of_one() {
        let text = written("ada@example.com", "Hello", "One\nTwo\n");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        for line in [
            "From: Example <noreply@example.org>",
            "To: ada@example.com",
            "Subject: Hello",
            "Auto-Submitted: auto-generated",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Transfer-Encoding: 7bit",
        ] {
            assert!(head.lines().any(|one| one == line), "{line} in {head}");
        }
        assert!(head.contains("\r\nDate: ") && head.contains("@example.org>\r\n"), "{head}");
        assert_eq!(body, "One\r\nTwo\r\n");
    }

    #[test]
    fn two_messages_have_two_names() {
        let id = |text: &str| text.lines().find(|line| line.starts_with("Message-ID:")).map(str::to_owned);
        let (one, two) = (written("ada@example.com", "x", "x"), written("ada@example.com", "x", "x"));
        assert!(id(&one).is_some() && id(&one) != id(&two));
    }

    #[test]
    fn letters_beyond_ascii_are_encoded() {
        let text = written("ada@example.com", "Gr\u{fc}\u{df}e \u{1f44b}", "Gr\u{fc}\u{df}e\n");
        assert!(text.is_ascii() && text.contains("\r\nSubject: =?utf-8?"), "{text}");
        // More letters of another script than ASCII.
        assert!(written("ada@example.com", "\u{43f}\u{440}\u{438}", &"\u{43f}".repeat(2_000)).is_ascii());
    }

    #[test]
    fn no_line_is_longer_than_servers_take() {
        let text = written("ada@example.com", &"long ".repeat(300), &"x".repeat(5_000));
        assert!(text.lines().all(|line| line.len() <= 998), "{text}");
    }

    #[test]
    fn nothing_in_a_text_ends_a_line_in_another_way() {
        let text = written("ada@example.com", "x", "a\rb\r\nc\n.\r.\n\r\nd");
        let body = text.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body, "a\r\nb\r\nc\r\n.\r\n.\r\n\r\nd");
    }

    #[test]
    fn a_subject_cannot_become_headers() {
        let long = "x".repeat(SUBJECT_BYTES_MAX + 1);
        for subject in ["x\r\nBcc: eve@example.com", "x\ny", "x\ry", "x\0y", "x\u{85}y", "x\ty", &long] {
            let told = Letter::write(&from(), mail("ada@example.com", subject, "x")).unwrap_err();
            assert!(told.contains("the subject"), "{told}");
        }
    }

    #[test]
    fn a_recipient_is_one_address() {
        let long = format!("ada@{}example.com", "x.".repeat(200));
        for to in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@example.com\r\nBcc: eve@example.com",
            "ada@example.com\n",
            "ada@example.com>\r\nRCPT TO:<eve@example.com",
            "ada@example.com> SIZE=1",
            "ada@example.com, eve@example.com",
            "ada@example.com eve@example.com",
            "Ada <ada@example.com>",
            "<ada@example.com>",
            "ada lovelace@example.com",
            "\"ada\r\n\"@example.com",
            "ada@exam ple.com",
            "ada@example.com\0",
            &long,
        ] {
            let told = Letter::write(&from(), mail(to, "x", "x")).unwrap_err();
            assert!(told.starts_with("the recipient ") && !told.contains(['\r', '\n', '\0']), "{told}");
        }
    }

    #[test]
    fn international_domains_are_sent_in_ascii_and_names_need_a_server_for_them() {
        let letter = Letter::write(&from(), mail("ada@b\u{fc}cher.example", "x", "x")).unwrap();
        assert_eq!(letter.to.to_string(), "ada@xn--bcher-kva.example");
        assert!(letter.parameters(false, false).unwrap().is_empty());
        let letter = Letter::write(&from(), mail("j\u{fc}rgen@example.com", "x", "x")).unwrap();
        assert!(letter.parameters(false, true).unwrap_err().contains("SMTPUTF8"));
        assert!(letter.parameters(true, true).unwrap().contains(&MailParameter::SmtpUtfEight));
    }

    #[test]
    fn senders_have_an_address_and_perhaps_a_name() {
        assert_eq!(sender("noreply@example.org").unwrap().to_string(), "noreply@example.org");
        assert_eq!(from().to_string(), "Example <noreply@example.org>");
        for text in ["", "noreply", "Example <noreply", "Example <noreply@example.org>\r\nX: y", "a@b@c"] {
            sender(text).unwrap_err();
        }
    }
}
