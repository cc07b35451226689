//! Whether the mail server lets the portal in.

use std::time::{Duration, Instant};

use culvert_portal_seams::mail::{Mail, MailError, Mailer};

/// The pause after the first login that the server has refused, and the longest; each is twice the
/// one before.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Whether the mail server lets the portal in. While it does not, one mail at a time tries, ever
/// more seldom, and the others wait: many attempts with a wrong password would only get the
/// portal's account locked.
#[derive(Debug, Default)]
pub struct MailLogin(tokio::sync::Mutex<Option<Refused>>);

#[derive(Debug, Clone, Copy)]
struct Refused {
    pause: Duration,
    again_at: Instant,
}

impl MailLogin {
    /// Sends a mail when its turn comes; `None` if that is not before its end.
    pub async fn send(&self, mailer: &dyn Mailer, mail: &Mail, end: Instant) -> Option<Result<(), MailError>> {
        let mut turn = loop {
            let turn = self.0.lock().await;
            let now = Instant::now();
            match *turn {
                Some(refused) if refused.again_at >= end => return None,
                Some(refused) if now < refused.again_at => {
                    drop(turn);
                    tokio::time::sleep(refused.again_at - now).await;
                }
                _ => break turn,
            }
        };
        let before = *turn;
        if before.is_none() {
            drop(turn);
            let sent = mailer.send(mail.clone()).await;
            turn = self.0.lock().await;
            if matches!(sent, Err(MailError::LoginRefused(_))) && turn.is_none() {
                *turn = Some(Refused::after(None));
            }
            return Some(sent);
        }
        // The others wait for this one.
        let sent = mailer.send(mail.clone()).await;
        *turn = match sent {
            Err(MailError::LoginRefused(_) | MailError::Unreachable(_)) => Some(Refused::after(before)),
            _ => None,
        };
        Some(sent)
    }
}

impl Refused {
    fn after(before: Option<Self>) -> Self {
        let pause = before.map_or(PAUSE_FIRST, |refused| (2 * refused.pause).min(PAUSE_MAX));
        Self { pause, again_at: Instant::now() + pause }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use culvert_portal_seams::mail::MemoryMailer;

    use super::*;

    fn mail() -> Mail {
        Mail { to: "ada@example.org".to_owned(), subject: "x".to_owned(), body: "x".to_owned() }
    }

    #[tokio::test]
    async fn while_the_login_is_refused_one_tries_and_the_others_wait() {
        let (login, mailer) = (Arc::new(MailLogin::default()), Arc::new(MemoryMailer::default()));
        mailer.fail_with(Some(MailError::LoginRefused("no".to_owned())));
        let end = || Instant::now() + Duration::from_secs(3_600);
        assert!(login.send(&*mailer, &mail(), end()).await.is_some_and(|sent| sent.is_err()));
        let held = login.0.lock().await.map(|refused| refused.pause);
        assert_eq!(held, Some(PAUSE_FIRST));
        assert!(login.send(&*mailer, &mail(), Instant::now()).await.is_none(), "it does not wait beyond its end");
        assert_eq!(Refused::after(Some(Refused { pause: PAUSE_MAX, again_at: end() })).pause, PAUSE_MAX);
        let doubled = Refused::after(*login.0.lock().await);
        assert_eq!(doubled.pause, 2 * PAUSE_FIRST);
        *login.0.lock().await = Some(Refused { pause: PAUSE_FIRST, again_at: Instant::now() });
        mailer.fail_with(None);
        assert!(login.send(&*mailer, &mail(), end()).await.is_some_and(|sent| sent.is_ok()));
        assert!(login.0.lock().await.is_none(), "it lets the portal in again");
    }
}
