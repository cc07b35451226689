//! Mail through a mail server.
//!
//! Each message has a connection of its own: the portal sends few. The steps of a delivery are
//! taken one by one rather than by the library's transport, which waits without end for an answer,
//! and does not tell which step was refused.

mod answers;
mod letter;
mod server;
mod settings;
mod wire;

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use culvert_portal_seams::Answer;
use culvert_portal_seams::mail::{Mail, MailError, Mailer};
use lettre::message::Mailbox;
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::DEFAULT_MECHANISMS;
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands;
use lettre::transport::smtp::extension::{ClientId, Extension};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::authorities::Authorities;
use crate::resolver::{Resolver, SystemResolver};
use answers::Answers;
use letter::Letter;
use server::{Protection, Server};
pub use settings::{SmtpSettings, SmtpSetupError, SmtpTimeouts};
use wire::Wire;

/// How long a server is waited for that has answered all that matters.
const FAREWELL: Duration = Duration::from_secs(1);

/// Hands mail to one server.
pub struct SmtpMailer {
    server: Server,
    from: Mailbox,
    /// For connections that are protected from their first byte.
    tls: TlsConnector,
    /// For connections that ask for protection.
    starttls: TlsParameters,
    timeouts: SmtpTimeouts,
    answers: Answers,
    resolver: Arc<dyn Resolver>,
}

impl SmtpMailer {
    /// One for a server.
    ///
    /// Reads files, for the start of a program. The server itself is not asked yet.
    ///
    /// # Errors
    /// [`SmtpSetupError`].
    pub fn new(settings: &SmtpSettings) -> Result<Self, SmtpSetupError> {
        Self::with_resolver(settings, Arc::new(SystemResolver::default()))
    }

    fn with_resolver(settings: &SmtpSettings, resolver: Arc<dyn Resolver>) -> Result<Self, SmtpSetupError> {
        let server = Server::read(&settings.url, settings.password_file.as_deref())?;
        let from = letter::sender(&settings.from).map_err(|reason| SmtpSetupError::BadFrom { reason })?;
        let authorities = Authorities::load(settings.extra_ca.as_deref())?;
        let tls = authorities.client_config()?;
        Ok(Self {
            starttls: server::starttls(&server.host, &authorities)?,
            tls: TlsConnector::from(Arc::new(tls)),
            answers: Answers::new(&server.host, server.login.as_ref()),
            timeouts: settings.timeouts,
            server,
            from,
            resolver,
        })
    }

    /// Hands a message over, and says goodbye, whose answer changes nothing.
    async fn hand_over(&self, letter: &Letter) -> Result<(), MailError> {
        let mut connection = None;
        let total = self.timeouts.total;
        let delivered = timeout(total, self.deliver(letter, &mut connection)).await;
        let delivered = delivered.unwrap_or_else(|_| Err(self.answers.late("the message", total)));
        let has_answered = !matches!(delivered, Err(MailError::Unreachable(_)));
        if let (true, Some(mut connection)) = (has_answered, connection) {
            let _ = timeout(FAREWELL, connection.quit()).await;
        }
        delivered
    }

    async fn deliver(&self, letter: &Letter, open: &mut Option<AsyncSmtpConnection>) -> Result<(), MailError> {
        let connection = open.insert(self.connect().await?);
        if let Some(login) = &self.server.login {
            let credentials = login.credentials();
            self.step(answers::LOGIN, connection.auth(DEFAULT_MECHANISMS, &credentials)).await?;
        }
        let supports = |extension| connection.server_info().supports_feature(extension);
        let parameters = letter.parameters(supports(Extension::SmtpUtfEight), supports(Extension::EightBitMime));
        let parameters = parameters.map_err(|reason| self.answers.refusal(&reason))?;
        let sender = commands::Mail::new(Some(self.from.email.clone()), parameters);
        self.step("the sender", connection.command(sender)).await?;
        let recipient = commands::Rcpt::new(letter.to.clone(), Vec::new());
        self.step("the recipient", connection.command(recipient)).await?;
        self.step("the request to send", connection.command(commands::Data)).await?;
        self.step("the message", connection.message(&letter.bytes)).await?;
        Ok(())
    }

    /// A connection that is as protected as it must be.
    async fn connect(&self) -> Result<AsyncSmtpConnection, MailError> {
        let tcp = self.connect_tcp().await?;
        let peer = tcp.peer_addr().map_err(|error| self.answers.failure("connecting", &error))?;
        let own = tcp.local_addr().map_err(|error| self.answers.failure("connecting", &error))?;
        // The portal may not know its own name; RFC 5321 4.1.4 has its address then.
        let name = match own.ip().to_canonical() {
            IpAddr::V4(address) => ClientId::Ipv4(address),
            IpAddr::V6(address) => ClientId::Ipv6(address),
        };
        let greeting = "the greeting";
        match self.server.protection {
            Protection::Tls => {
                let stream = Box::new(Wire::protected(self.protect(tcp).await?, peer));
                self.step(greeting, AsyncSmtpConnection::connect_with_transport(stream, &name)).await
            }
            Protection::StartTls => {
                let stream = Box::new(Wire::plain(tcp, peer));
                let opened = AsyncSmtpConnection::connect_with_transport(stream, &name);
                let mut connection = self.step(greeting, opened).await?;
                if !connection.can_starttls() {
                    return Err(self.answers.unusable("it offers no STARTTLS; use smtps:// if it has a port for TLS"));
                }
                self.step("STARTTLS", connection.starttls(self.starttls.clone(), &name)).await?;
                Ok(connection)
            }
            Protection::None => {
                let stream = Box::new(Wire::plain(tcp, peer));
                self.step(greeting, AsyncSmtpConnection::connect_with_transport(stream, &name)).await
            }
        }
    }

    /// Connects to the first of the server's addresses that answers.
    async fn connect_tcp(&self) -> Result<TcpStream, MailError> {
        let limit = self.timeouts.connect;
        let connecting = async {
            let addresses = self.addresses().await?;
            let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
            let mut failure = self.answers.unusable("its name has no address");
            for address in addresses {
                let address = SocketAddr::new(address, self.server.port);
                failure = match timeout(share, TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) => self.answers.failure("connecting", &error),
                    Err(_) => self.answers.late("connecting", share),
                };
            }
            Err(failure)
        };
        timeout(limit, connecting).await.unwrap_or_else(|_| Err(self.answers.late("connecting", limit)))
    }

    async fn addresses(&self) -> Result<Vec<IpAddr>, MailError> {
        let addresses = match self.server.host.parse() {
            Ok(address) => vec![address],
            Err(_) => {
                let found = self.resolver.addresses(&self.server.host).await;
                found.map_err(|error| self.answers.failure("looking up its name", &error))?
            }
        };
        let is_outside = |address: &IpAddr| !address.to_canonical().is_loopback();
        if self.server.protection == Protection::None && addresses.iter().any(is_outside) {
            return Err(self.answers.unusable("its name leads to another host, to which nothing is sent without TLS"));
        }
        Ok(addresses)
    }

    async fn protect(&self, tcp: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>, MailError> {
        let name = ServerName::try_from(self.server.host.clone());
        let name = name.map_err(|error| self.answers.failure("TLS", &error))?;
        let limit = self.timeouts.connect;
        match timeout(limit, self.tls.connect(name, tcp)).await {
            Ok(done) => done.map_err(|error| self.answers.failure("TLS", &error)),
            Err(_) => Err(self.answers.late("TLS", limit)),
        }
    }

    /// Takes a step: sends something and awaits its answer.
    async fn step<T>(
        &self,
        what: &str,
        taken: impl Future<Output = Result<T, smtp::Error>> + Send,
    ) -> Result<T, MailError> {
        let limit = self.timeouts.command;
        match timeout(limit, taken).await {
            Ok(done) => done.map_err(|error| self.answers.negative(what, &error)),
            Err(_) => Err(self.answers.late(what, limit)),
        }
    }
}

impl Mailer for SmtpMailer {
    fn send(&self, mail: Mail) -> Answer<'_, Result<(), MailError>> {
        Box::pin(async move {
            let letter = Letter::write(&self.from, mail).map_err(MailError::Refused)?;
            self.hand_over(&letter).await
        })
    }

    fn is_configured(&self) -> bool {
        true
    }
}

impl fmt::Debug for SmtpMailer {
    /// Without the login.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = (&self.server.protection, &self.server.host, self.server.port);
        formatter.debug_struct("SmtpMailer").field("server", &shown).field("from", &self.from).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
