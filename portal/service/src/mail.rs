//! Mail that is sent after its cause is answered: how long it takes tells nobody anything, and a
//! slow mail server keeps nobody waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_portal_seams::mail::{Mail, MailError};

use crate::actor::Actor;
use crate::fault::Fault;
use crate::people::reset;
use crate::portal::Portal;

/// An address of mail is no longer, nor is a name.
const WHO_CHARACTERS_MAX: usize = 254;
/// How often a mail is tried, and how long after the first.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(5), Duration::from_secs(60), Duration::from_secs(300)];
/// A mail that has waited so long is given up: links for a new password are good for no longer.
const WAITING_MAX: Duration = Duration::from_secs(3_600);

/// Sends a mail in a while, if there is one.
pub fn send_later(portal: Arc<Portal>, mail: Option<Mail>) {
    let Some(mail) = mail.filter(|_| portal.seams.mailer.is_configured()) else { return };
    tokio::spawn(async move { send(&portal, mail).await });
}

/// Looks for whose password is forgotten, and mails them, after this has answered.
///
/// # Errors
/// [`Fault`] for what everybody may know: too many requests, or no mail server.
pub async fn request_reset_later(portal: Arc<Portal>, actor: Actor, who: String) -> Result<(), Fault> {
    let characters = who.chars().count();
    if characters > WHO_CHARACTERS_MAX {
        let detail = format!("who has {characters} characters; it must have at most {WHO_CHARACTERS_MAX}");
        return Err(Fault::of_field("who", detail));
    }
    reset::check(&portal, &actor).await?;
    tokio::spawn(async move {
        match reset::make_mails(&portal, &actor, &who).await {
            Ok(mails) => {
                for mail in mails {
                    send(&portal, mail).await;
                }
            }
            Err(fault) => tracing::warn!(cause = fault.log.unwrap_or(fault.detail), "no link was mailed"),
        }
    });
    Ok(())
}

async fn send(portal: &Portal, mail: Mail) {
    let given_up_at = Instant::now() + WAITING_MAX;
    for pause in PAUSES {
        tokio::time::sleep(pause).await;
        let Some(sent) = portal.mail_login.send(&*portal.seams.mailer, &mail, given_up_at).await else { break };
        match sent {
            Ok(()) => return,
            Err(error @ MailError::Unreachable(_)) => tracing::warn!(%error, "a mail waits"),
            // Every mail will fail until somebody has mended it.
            Err(error @ MailError::LoginRefused(_)) => tracing::error!(%error, "a mail waits: mend the configuration"),
            Err(error) => {
                tracing::warn!(%error, "a mail was not sent");
                return;
            }
        }
    }
    tracing::error!("a mail was given up");
}
