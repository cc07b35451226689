//! The receipt of a transfer: what moved, when, between whom, with which hash; signed by both
//! nodes.
//!
//! A receipt is a text of three lines, so that it can be checked with other tools too: the
//! statement as one line of JSON, then each node's Ed25519 signature over exactly the bytes of that
//! line.
//!
//! ```text
//! {"culvert_receipt":1,"transfer":"01J…","sender":"9f…","receiver":"4c…",…}
//! sender <signature, 128 hexadecimal digits>
//! receiver <signature, 128 hexadecimal digits>
//! ```

use serde::{Deserialize, Serialize};

use crate::identity::{Identity, IdentityError, PublicKey, from_hex, to_hex};

/// The longest receipt that is read, in bytes.
pub const RECEIPT_BYTES_MAX: usize = 64 << 10;

/// What both nodes sign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// The version of this statement.
    pub culvert_receipt: u32,
    /// The transfer's id.
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub transfer: String,
    /// The sender's key.
    pub sender: PublicKey,
    /// The receiver's key.
    pub receiver: PublicKey,
    /// When the receiver accepted the request, in milliseconds since 1970, by its clock.
    pub began_unix_ms: u64,
    /// When everything was stored, by the receiver's clock.
    pub ended_unix_ms: u64,
    /// Regular files stored by this transfer, including those that were there already with the same
    /// content.
    pub files: u64,
    /// Files that failed; their names are in the transfer's result.
    pub files_failed: u64,
    /// Bytes of the stored files.
    pub bytes: u64,
    /// BLAKE3: a single file's hash, as `b3sum` prints it; of several files the hash of `b3sum`'s
    /// listing of them in the manifest's order, names relative to the destination. Empty if the
    /// transfer was made without hashes.
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub root_blake3: String,
    /// Segments sent, and those among them that were sent again.
    pub segments_sent: u64,
    /// See `segments_sent`.
    pub segments_resent: u64,
    /// The cipher that sealed them.
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub cipher: String,
    /// What limited the transfer.
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub verdict: String,
}

/// A statement with both signatures.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// The signed line.
    pub line: String,
    /// The sender's signature over it.
    pub sender_signature: [u8; 64],
    /// The receiver's.
    pub receiver_signature: [u8; 64],
}

/// Why a receipt is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not the three lines of a receipt.
    #[error("it is not a Culvert receipt: {0}")]
    Shape(String),
    /// A version that this program does not know.
    #[error("it is a receipt of version {0}, but this program knows only version 1: use a newer one")]
    Version(u32),
    /// A signature that does not fit.
    #[error("the {0}'s signature does not match this receipt: the receipt was changed, or never signed")]
    Signature(&'static str),
}

impl Statement {
    /// The line that is signed.
    ///
    /// # Panics
    /// Never: every field has a JSON form.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the statement is this node's own, and every field has a JSON form")]
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("every field has a JSON form")
    }
}

/// Signs a statement's line.
#[must_use]
#[expect(clippy::expect_used, reason = "the signature is this node's own, and has 64 bytes")]
pub fn sign_line(identity: &Identity, line: &str) -> [u8; 64] {
    identity.sign(line.as_bytes()).try_into().expect("an Ed25519 signature has 64 bytes")
}

/// Checks one signature over a statement's line.
///
/// # Errors
/// [`IdentityError::BadSignature`].
pub fn verify_line(key: PublicKey, line: &str, signature: &[u8]) -> Result<(), IdentityError> {
    key.verify(line.as_bytes(), signature)
}

impl Receipt {
    /// Reads the three lines and checks both signatures against the keys in the statement.
    ///
    /// # Errors
    /// [`ReceiptError`] says what is wrong. Whether the keys belong to the right nodes is for the
    /// caller to check.
    pub fn verify(text: &str) -> Result<(Self, Statement), ReceiptError> {
        let shape = |what: &str| ReceiptError::Shape(what.to_owned());
        if text.len() > RECEIPT_BYTES_MAX {
            return Err(shape("it is too long"));
        }
        let mut lines = text.lines();
        let line = lines.next().ok_or_else(|| shape("it is empty"))?;
        let statement: Statement = serde_json::from_str(line).map_err(|error| shape(&error.to_string()))?;
        if statement.culvert_receipt != 1 {
            return Err(ReceiptError::Version(statement.culvert_receipt));
        }
        let mut signature = |who: &'static str| {
            let line = lines.next().and_then(|line| line.strip_prefix(who)).and_then(|rest| rest.strip_prefix(' '));
            line.and_then(from_hex::<64>)
                .ok_or_else(|| shape(&format!("it has no line '{who} <128 hexadecimal digits>'")))
        };
        let receipt = Self {
            line: line.to_owned(),
            sender_signature: signature("sender")?,
            receiver_signature: signature("receiver")?,
        };
        if lines.next().is_some() {
            return Err(shape("it has more than three lines"));
        }
        for (who, key, signature) in [
            ("sender", statement.sender, &receipt.sender_signature),
            ("receiver", statement.receiver, &receipt.receiver_signature),
        ] {
            verify_line(key, line, signature).map_err(|_| ReceiptError::Signature(who))?;
        }
        Ok((receipt, statement))
    }

    /// The three lines.
    #[must_use]
    pub fn to_text(&self) -> String {
        let (sender, receiver) = (to_hex(&self.sender_signature), to_hex(&self.receiver_signature));
        format!("{}\nsender {sender}\nreceiver {receiver}\n", self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn receipt() -> (Receipt, Statement) {
        let (sender, receiver) = (Identity::generate(), Identity::generate());
        let statement = Statement {
            culvert_receipt: 1,
            transfer: "01J".into(),
            sender: sender.public_key(),
            receiver: receiver.public_key(),
            began_unix_ms: 1,
            ended_unix_ms: 2,
            files: 3,
            files_failed: 0,
            bytes: 4,
            root_blake3: "ab".into(),
            segments_sent: 5,
            segments_resent: 0,
            cipher: "aes-256-gcm".into(),
            verdict: "limited by nothing".into(),
        };
        let line = statement.to_line();
        let (sender_signature, receiver_signature) = (sign_line(&sender, &line), sign_line(&receiver, &line));
        (Receipt { line, sender_signature, receiver_signature }, statement)
    }

    #[test]
    fn a_receipt_verifies_and_a_changed_one_does_not() {
        let (receipt, statement) = receipt();
        let text = receipt.to_text();
        assert_eq!(Receipt::verify(&text), Ok((receipt.clone(), statement)));
        let changed = text.replacen("\"bytes\":4", "\"bytes\":5", 1);
        assert_eq!(Receipt::verify(&changed), Err(ReceiptError::Signature("sender")));
        let swapped = Receipt {
            sender_signature: receipt.receiver_signature,
            receiver_signature: receipt.sender_signature,
            ..receipt
        };
        assert!(Receipt::verify(&swapped.to_text()).is_err());
        assert!(matches!(Receipt::verify(""), Err(ReceiptError::Shape(_))));
        assert!(matches!(Receipt::verify(&format!("{text}more\n")), Err(ReceiptError::Shape(_))));
        let newer = text.replacen("\"culvert_receipt\":1", "\"culvert_receipt\":9", 1);
        assert_eq!(Receipt::verify(&newer), Err(ReceiptError::Version(9)));
    }

    proptest! {
        #[test]
        fn no_changed_byte_of_the_statement_verifies(at: prop::sample::Index, byte in 32..127u8) {
            let (receipt, _) = receipt();
            let mut text = receipt.to_text().into_bytes();
            let at = at.index(receipt.line.len());
            if text[at] != byte {
                text[at] = byte;
                prop_assert!(Receipt::verify(std::str::from_utf8(&text).unwrap()).is_err());
            }
        }
    }
}
