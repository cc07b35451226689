//! HTTP requests of the portal to other services.
//!
//! A request is safe for the networks around the portal if its connection goes to an address that
//! was looked at. So the name is resolved here, all its addresses are checked, and the connection
//! is made to these and no others: the library gets a resolver that knows nothing else. Each
//! request has a connection of its own, so none is left from a time when the name led elsewhere.

mod target;

use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use culvert_portal_seams::Answer;
use culvert_portal_seams::http::{HttpOut, OutError, OutRequest, OutResponse, Reach};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use reqwest::{Client, Method, Request, Response, redirect, retry};
use rustls::ClientConfig;

use crate::authorities::{Authorities, TlsSetupError};
use crate::public_address::is_public;
use crate::resolver::{Resolver, SystemResolver};
use target::Target;

/// Sends requests over HTTP/1.1, with TLS 1.2 or 1.3.
///
/// Redirects are not followed, proxies of the environment not used, compressed answers not
/// decompressed, failed requests not repeated.
#[derive(Debug)]
pub struct HttpClient {
    tls: ClientConfig,
    /// Whether no certificate can be good.
    trusts_nobody: bool,
    resolver: Arc<dyn Resolver>,
}

impl HttpClient {
    /// One that trusts the system's certificate authorities, and those of a PEM file.
    ///
    /// Reads files; for the start of a program.
    ///
    /// # Errors
    /// [`TlsSetupError`].
    pub fn new(extra_ca: Option<&Path>) -> Result<Self, TlsSetupError> {
        Self::with_resolver(extra_ca, Arc::new(SystemResolver::default()))
    }

    fn with_resolver(extra_ca: Option<&Path>, resolver: Arc<dyn Resolver>) -> Result<Self, TlsSetupError> {
        let authorities = Authorities::load(extra_ca)?;
        let mut tls = authorities.client_config()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls, trusts_nobody: authorities.is_empty(), resolver })
    }

    async fn exchange(&self, target: Target, request: OutRequest) -> Result<OutResponse, OutError> {
        let sent = to_send(&target, &request)?;
        let addresses = self.addresses(&target, request.reach).await?;
        let client = self.client(&target, addresses, request.timeout)?;
        let failed = |error| failure(error, &target, &request);
        let response = client.execute(sent).await.map_err(failed)?;
        let status = response.status().as_u16();
        let headers = headers_of(response.headers());
        let body = body_of(response, &target, &request).await?;
        Ok(OutResponse { status, headers, body })
    }

    /// Where the connection may go: the target's addresses, if all of them are permitted. A name
    /// with one forbidden address is not used with the others, or the portal would be a way to try.
    async fn addresses(&self, target: &Target, reach: Reach) -> Result<Vec<IpAddr>, OutError> {
        let addresses = match target.literal {
            Some(address) => vec![address],
            None => self.resolver.addresses(&target.host).await.map_err(|error| lookup_failure(target, &error))?,
        };
        if addresses.is_empty() {
            return Err(unreachable(target, "the name has no address".to_owned()));
        }
        let forbidden = addresses.iter().find(|&&address| reach == Reach::Public && !is_public(address));
        match forbidden {
            Some(address) => Err(OutError::Forbidden { host: target.host.clone(), address: address.to_string() }),
            None => Ok(addresses),
        }
    }

    /// A client whose connections go to these addresses, whatever it is asked for.
    fn client(&self, target: &Target, addresses: Vec<IpAddr>, timeout: Duration) -> Result<Client, OutError> {
        if self.trusts_nobody && target.url.scheme() == "https" {
            let reason = "this host trusts no certificate authorities; install the system's, or name a CA file";
            return Err(unreachable(target, reason.to_owned()));
        }
        Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .dns_resolver(Pinned(addresses))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .pool_max_idle_per_host(0)
            // The library goes on connecting when nobody waits any more, but not beyond this.
            .connect_timeout(timeout)
            .user_agent("culvert-portal")
            .build()
            .map_err(|error| unreachable(target, cause(&error)))
    }
}

impl HttpOut for HttpClient {
    fn check(&self, url: &str, reach: Reach) -> Result<(), OutError> {
        let target = Target::read(url, reach)?;
        match target.literal.filter(|&address| reach == Reach::Public && !is_public(address)) {
            Some(address) => Err(OutError::Forbidden { host: target.host, address: address.to_string() }),
            None => Ok(()),
        }
    }

    fn send(&self, request: OutRequest) -> Answer<'_, Result<OutResponse, OutError>> {
        Box::pin(async move {
            let target = Target::read(&request.url, request.reach)?;
            let late = timed_out(&target, request.timeout);
            tokio::time::timeout(request.timeout, self.exchange(target, request)).await.unwrap_or(Err(late))
        })
    }
}

/// Answers every question with the addresses that were checked. Port 0 stands for the URL's.
struct Pinned(Vec<IpAddr>);

impl Resolve for Pinned {
    fn resolve(&self, _name: Name) -> Resolving {
        let addresses: Vec<SocketAddr> = self.0.iter().map(|&address| SocketAddr::new(address, 0)).collect();
        let addresses: Addrs = Box::new(addresses.into_iter());
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

fn to_send(target: &Target, request: &OutRequest) -> Result<Request, OutError> {
    let bad = |reason: String| OutError::BadUrl { url: request.url.clone(), reason };
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| bad(format!("'{}' is not a method of HTTP", request.method.escape_default())))?;
    let mut sent = Request::new(method, target.url.clone());
    for (name, value) in &request.headers {
        let wrong = || bad(format!("its header '{}' cannot be sent", name.escape_default()));
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        // These say how long the message is and whom it is for, which is not the caller's to say.
        if [CONTENT_LENGTH, TRANSFER_ENCODING, HOST].contains(&header) {
            return Err(wrong());
        }
        sent.headers_mut().append(header, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    *sent.body_mut() = Some(request.body.clone().into());
    Ok(sent)
}

fn headers_of(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// The content, of which never more is kept than permitted, whatever the answer says of its length.
async fn body_of(mut response: Response, target: &Target, request: &OutRequest) -> Result<Vec<u8>, OutError> {
    let bytes_max = request.answer_bytes_max;
    let too_large = || OutError::TooLarge { host: target.host.clone(), bytes_max };
    if response.content_length().is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| failure(error, target, request))? {
        if piece.len() > bytes_max - body.len() {
            return Err(too_large());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn failure(error: reqwest::Error, target: &Target, request: &OutRequest) -> OutError {
    if error.is_timeout() {
        return timed_out(target, request.timeout);
    }
    let is_bad = error.is_builder();
    let reason = cause(&error.without_url());
    if is_bad { OutError::BadUrl { url: request.url.clone(), reason } } else { unreachable(target, reason) }
}

fn lookup_failure(target: &Target, error: &io::Error) -> OutError {
    unreachable(target, format!("its address cannot be found: {error}"))
}

fn timed_out(target: &Target, limit: Duration) -> OutError {
    // Half a second is not told as none.
    let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
    OutError::Timeout { host: target.host.clone(), seconds }
}

fn unreachable(target: &Target, reason: String) -> OutError {
    OutError::Unreachable { host: target.host.clone(), reason }
}

/// What happened first: the library's own words around it only say that something did.
fn cause(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests;
