//! Being logged in by a password for the time of one command: for what no token may do.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::json;

use crate::exit::CommandError;
use crate::portal::client::{Credential, PortalClient, PortalError};
use crate::portal::documents::{NewToken, TokenWish};
use crate::portal::secret::{Secret, ask, password_of_file};

/// For how many days a token is good if nobody says.
const DAYS: u32 = 90;

/// A session at a portal.
#[derive(Debug)]
pub struct PortalSession<'a> {
    client: &'a PortalClient,
    cookie: Secret,
}

impl<'a> PortalSession<'a> {
    /// Logs in. The password is in a file, or is asked for on the terminal, as is a code of the
    /// second factor.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn begin(
        client: &'a PortalClient,
        account: &str,
        password_file: Option<&Path>,
    ) -> Result<Self, CommandError> {
        let password = match password_file {
            Some(path) => password_of_file(path)?,
            None => {
                let question = format!("password of {account} at {}", client.url());
                ask(&question, "name a file that has the password with --password-file").await?
            }
        };
        let mut body = json!({ "name": account, "password": password.text() });
        let first = client.post_for_cookie("/sessions", &body).await;
        let cookie = match first {
            Err(error) if error.code() == Some("second-factor-needed") => {
                let code = ask("code of the second factor", "the account needs a code of its second factor").await?;
                body["code"] = code.text().into();
                client.post_for_cookie("/sessions", &body).await?
            }
            first => first?,
        };
        Ok(Self { client, cookie })
    }

    /// Gets something below `/api/v1`.
    ///
    /// # Errors
    /// [`PortalError`].
    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, PortalError> {
        self.client.get(path, Credential::Session(&self.cookie)).await
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`PortalError`].
    pub async fn make_token(&self, wish: &TokenWish<'_>) -> Result<NewToken, PortalError> {
        let TokenWish { name, scopes, days } = wish;
        let body = json!({ "name": name, "scopes": scopes, "days": days.unwrap_or(DAYS) });
        self.client.post("/tokens", Credential::Session(&self.cookie), &body).await
    }

    /// Deletes something below `/api/v1`.
    ///
    /// # Errors
    /// [`PortalError`].
    pub async fn delete(&self, path: &str) -> Result<(), PortalError> {
        self.client.delete(path, Credential::Session(&self.cookie)).await
    }

    /// Logs out. If the portal cannot be told, the session ends by itself, unused, after a while.
    pub async fn end(self) {
        let _ = self.delete("/sessions/current").await;
    }
}
