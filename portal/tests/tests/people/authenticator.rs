//! An authenticator on a phone: RFC 6238, written again from the text, so that a fault of the
//! portal's library would be seen.

use aws_lc_rs::hmac;
use culvert_portal_seams::clock::Clock as _;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::people::second_factor;
use culvert_portal_tests::room::Room;

pub struct Authenticator {
    secret: Vec<u8>,
    /// The code that confirmed the set-up.
    pub first: String,
    /// The recovery codes.
    pub recovery: Vec<String>,
}

impl Authenticator {
    /// Sets up a second factor for somebody.
    pub async fn set_up(room: &Room, actor: &Actor) -> Self {
        let enrolment = second_factor::begin(&room.portal, actor).await.unwrap();
        let mut made = Self { secret: from_base32(&enrolment.secret), first: String::new(), recovery: Vec::new() };
        made.first = made.code(room);
        made.recovery = second_factor::confirm(&room.portal, actor, &made.first).await.unwrap();
        made
    }

    /// The code that it shows now.
    pub fn code(&self, room: &Room) -> String {
        let step = room.clock.now().as_second() / 30;
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.secret);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let bytes = tag.as_ref();
        let at = usize::from(bytes[bytes.len() - 1] & 0xF);
        let number = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) & 0x7FFF_FFFF;
        format!("{:06}", number % 1_000_000)
    }
}

fn from_base32(text: &str) -> Vec<u8> {
    let mut bits = 0u64;
    let mut count = 0;
    let mut bytes = Vec::new();
    for letter in text.bytes() {
        let value = if letter.is_ascii_uppercase() { letter - b'A' } else { letter - b'2' + 26 };
        bits = bits << 5 | u64::from(value);
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
