//! Secrets of webhooks and what is signed with them, as Standard Webhooks 1.0 has it: HMAC-SHA-256
//! over the identifier, the time, and the content, with dots between.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use culvert_portal_model::id::Id;
use culvert_portal_seams::randomness::{Randomness, bytes};
use culvert_portal_store::webhooks::WebhookRow;
use zeroize::Zeroizing;

use crate::fault::Fault;
use crate::portal::Portal;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// Bytes of a secret.
const BYTES: usize = 32;
/// The kind under which secrets are sealed.
const KIND: &str = "webhook";

/// Makes a secret: what people are shown, and its bytes.
pub(super) fn make(randomness: &dyn Randomness) -> (String, Zeroizing<[u8; BYTES]>) {
    let secret = Zeroizing::new(bytes::<BYTES>(randomness));
    (format!("{PREFIX}{}", STANDARD.encode(secret.as_slice())), secret)
}

/// Seals a webhook's secret.
pub(super) fn seal(portal: &Portal, webhook: Id, secret: &[u8]) -> Vec<u8> {
    portal.sealer.seal(KIND, &webhook.text(), secret, &*portal.seams.randomness)
}

/// The value of `webhook-signature`: one signature, and one with the former secret while that is
/// good.
///
/// # Errors
/// [`Fault`] if the secret cannot be opened.
pub(super) fn signature(
    portal: &Portal,
    row: &WebhookRow,
    delivery: Id,
    second: i64,
    body: &str,
) -> Result<String, Fault> {
    let now = portal.now();
    let former = row.former.iter().filter(|(_, until)| *until > now).map(|(secret, _)| secret);
    let signed = std::iter::once(&row.secret).chain(former).map(|sealed| {
        let secret = portal.sealer.open(KIND, &row.shown.id.text(), sealed);
        let secret = secret.map_err(|error| Fault::internal(format!("the secret of a webhook: {error}")))?;
        Ok(sign_with(&secret, &delivery.text(), second, body))
    });
    Ok(signed.collect::<Result<Vec<_>, Fault>>()?.join(" "))
}

fn sign_with(secret: &[u8], id: &str, second: i64, body: &str) -> String {
    let tag = sign(&Key::new(HMAC_SHA256, secret), format!("{id}.{second}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn the_specifications_example_is_signed_alike() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = sign_with(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
