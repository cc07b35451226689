//! A plain HTTP client that shows each answer as it is: it follows no redirect by itself, keeps
//! cookies, and reads streams line by line.

use std::fmt::Debug;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use url::Url;

use crate::process::Process;

/// How long an answer, or the next part of it, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client with its cookies.
#[derive(Debug, Clone, Default)]
pub struct Client {
    tls: Option<Arc<ClientConfig>>,
    cookies: Vec<Cookie>,
}

impl Client {
    /// One that knows no authority, and so no `https`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that trusts an authority, by its certificate as PEM, and no other.
    ///
    /// # Panics
    /// If it is no certificate.
    #[must_use]
    pub fn trusting(authority: &str) -> Self {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(authority.as_bytes()).expect("an authority is PEM");
        roots.add(certificate).expect("an authority is a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("the provider has TLS 1.3").with_root_certificates(roots).with_no_client_auth();
        Self { tls: Some(Arc::new(config)), cookies: Vec::new() }
    }

    /// Gets a page.
    ///
    /// # Panics
    /// If nobody answers.
    #[track_caller]
    pub fn get(&mut self, url: &str) -> Answer {
        self.expect(&Request::new("GET", url))
    }

    /// Posts what a form would.
    ///
    /// # Panics
    /// If nobody answers.
    #[track_caller]
    pub fn post_form<N: AsRef<str>, V: AsRef<str>>(&mut self, url: &str, fields: &[(N, V)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.expect(&Request::new("POST", url).with_body("application/x-www-form-urlencoded", body))
    }

    /// Posts a JSON document.
    ///
    /// # Panics
    /// If nobody answers.
    #[track_caller]
    pub fn post_json(&mut self, url: &str, document: &Value) -> Answer {
        self.expect(&Request::new("POST", url).with_body("application/json", document.to_string()))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// If nobody answers, or not in HTTP.
    pub fn send(&mut self, request: &Request) -> io::Result<Answer> {
        let mut open = self.open(request)?;
        let mut answer = open.answer;
        if !matches!((request.method.as_str(), answer.status), ("HEAD", _) | (_, 100..=199 | 204 | 304)) {
            answer.body = read_body(&answer, &mut open.reader)?;
        }
        Ok(answer)
    }

    /// Sends a request and reads the head of the answer; the body is read as it comes. Chunks, if
    /// it comes in such, are seen with their lengths.
    ///
    /// # Errors
    /// If nobody answers, or not in HTTP.
    pub fn open(&mut self, request: &Request) -> io::Result<OpenAnswer> {
        let url = Url::parse(&request.url).map_err(|error| invalid(&format!("{}: {error}", request.url)))?;
        let mut stream = self.connect(&url)?;
        stream.write_all(&self.head(request, &url))?;
        stream.write_all(&request.body)?;
        stream.flush()?;
        let mut reader = BufReader::new(stream);
        let answer = read_head(&url, &mut reader)?;
        for (_, line) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
            self.keep(&url, line);
        }
        Ok(OpenAnswer { answer, reader })
    }

    #[track_caller]
    fn expect(&mut self, request: &Request) -> Answer {
        self.send(request).unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.url))
    }

    fn connect(&self, url: &Url) -> io::Result<Stream> {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(invalid(&format!("{url} names no host")));
        };
        let stream = TcpStream::connect((host, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        match (url.scheme(), &self.tls) {
            ("http", _) => Ok(Box::new(stream)),
            ("https", Some(config)) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|error| invalid(&error.to_string()))?;
                let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                Ok(Box::new(StreamOwned::new(connection, stream)))
            }
            _ => Err(invalid(&format!("{url}: this client does not speak {}", url.scheme()))),
        }
    }

    fn head(&self, request: &Request, url: &Url) -> Vec<u8> {
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut lines = vec![format!("{} {}{query} HTTP/1.1", request.method, url.path())];
        if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            lines.push(format!("host: {}", &url[url::Position::BeforeHost..url::Position::AfterPort]));
        }
        lines.push("connection: close".to_owned());
        lines.extend(request.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        let cookies: Vec<&str> = self.cookies.iter().filter(|cookie| cookie.is_for(url)).map(Cookie::pair).collect();
        if !cookies.is_empty() {
            lines.push(format!("cookie: {}", cookies.join("; ")));
        }
        if !request.body.is_empty() || request.method != "GET" {
            lines.push(format!("content-length: {}", request.body.len()));
        }
        (lines.join("\r\n") + "\r\n\r\n").into_bytes()
    }

    fn keep(&mut self, url: &Url, line: &str) {
        let mut parts = line.split(';').map(str::trim);
        let pair = parts.next().unwrap_or_default().to_owned();
        let (mut path, mut is_deleted) = ("/".to_owned(), false);
        for part in parts {
            match part.split_once('=') {
                Some((name, value)) if name.eq_ignore_ascii_case("path") => value.clone_into(&mut path),
                Some((name, value)) if name.eq_ignore_ascii_case("max-age") => is_deleted |= value == "0",
                Some((name, value)) if name.eq_ignore_ascii_case("expires") => is_deleted |= value.contains(" 1970 "),
                _ => {}
            }
        }
        let cookie = Cookie { host: url.host_str().unwrap_or_default().to_owned(), path, pair };
        self.cookies.retain(|known| !known.is_same(&cookie));
        if !is_deleted {
            self.cookies.push(cookie);
        }
    }
}

/// A request that is sent as it is; `Host`, `Connection`, `Content-Length` and cookies are added.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: &str, url: &str) -> Self {
        Self { method: method.to_owned(), url: url.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives it a body.
    #[must_use]
    pub fn with_body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.with("content-type", content_type)
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What was asked for.
    pub url: Url,
    /// The status code.
    pub status: u16,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a header, whose name is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Where it redirects to, if it does.
    #[must_use]
    pub fn redirect(&self) -> Option<Url> {
        if !(300..400).contains(&self.status) {
            return None;
        }
        self.url.join(self.header("location")?).ok()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        let read = serde_json::from_slice(&self.body);
        read.unwrap_or_else(|error| panic!("{}: {error}: {} {}", self.url, self.status, self.text()))
    }
}

/// An answer whose body has not been read.
pub struct OpenAnswer {
    /// Its head; the body in it is empty.
    pub answer: Answer,
    reader: BufReader<Stream>,
}

impl Debug for OpenAnswer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("OpenAnswer").field(&self.answer).finish()
    }
}

impl OpenAnswer {
    /// The next line of the body, without its end; `None` where the body ends.
    ///
    /// # Errors
    /// If it is cut off, or does not come.
    pub fn next_line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let bytes = self.reader.read_line(&mut line)?;
        Ok((bytes > 0).then(|| line.trim_end().to_owned()))
    }

    /// Waits for a line that contains a text.
    ///
    /// # Panics
    /// If the body ends first, or the next line does not come.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.reader.read_line(&mut line);
            let bytes = read.unwrap_or_else(|error| panic!("{}: no '{text}': {error}", self.answer.url));
            assert!(bytes > 0, "{} ended without '{text}'", self.answer.url);
            if line.contains(text) {
                return line.trim_end().to_owned();
            }
        }
    }
}

/// Waits until a server answers a request with success.
///
/// # Panics
/// With what the server printed, if it ends or takes too long.
#[track_caller]
pub fn wait_for(process: &Process, client: &mut Client, url: &str, patience: Duration) {
    let request = Request::new("GET", url);
    process.until(&format!("answering {url}"), patience, || {
        client.send(&request).is_ok_and(|answer| (200..300).contains(&answer.status))
    });
}

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}
type Stream = Box<dyn ReadWrite>;

#[derive(Debug, Clone)]
struct Cookie {
    host: String,
    path: String,
    pair: String,
}

impl Cookie {
    fn pair(&self) -> &str {
        &self.pair
    }

    fn name(&self) -> &str {
        self.pair.split('=').next().unwrap_or_default()
    }

    /// Ports make no difference.
    fn is_for(&self, url: &Url) -> bool {
        let rest = url.path().strip_prefix(self.path.trim_end_matches('/'));
        url.host_str() == Some(&self.host) && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.host, &self.path, self.name()) == (&other.host, &other.path, other.name())
    }
}

fn read_head(url: &Url, reader: &mut impl BufRead) -> io::Result<Answer> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no whole head came"));
        }
        match line.trim_end() {
            line if lines.is_empty() && !line.starts_with("HTTP/1.") => {
                return Err(invalid(&format!("this is no answer: {line}")));
            }
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| invalid(&format!("this is no status: {}", lines[0])))?;
    let header = |line: &String| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = lines.iter().skip(1).filter_map(header).collect();
    Ok(Answer { url: url.clone(), status, headers, body: Vec::new() })
}

fn read_body(answer: &Answer, reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if answer.header("transfer-encoding").is_some_and(|encoding| encoding.contains("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let length = line.trim().split(';').next().unwrap_or_default();
            let length = usize::from_str_radix(length, 16).map_err(|_| invalid(&format!("a chunk begins {line:?}")))?;
            let begin = body.len();
            // The line end after each chunk.
            body.resize(begin + length + 2, 0);
            reader.read_exact(&mut body[begin..])?;
            body.truncate(begin + length);
            if length == 0 {
                return Ok(body);
            }
        }
    }
    match answer.header("content-length").map(str::parse::<usize>) {
        Some(Ok(length)) => {
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
        }
        Some(Err(error)) => return Err(invalid(&format!("content-length: {error}"))),
        None => {
            reader.read_to_end(&mut body)?;
        }
    }
    Ok(body)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn cookies_are_sent_to_their_paths_and_deleted() {
        let mut client = Client::new();
        client.keep(&url("http://a:1/x"), "one=1; Path=/x; HttpOnly");
        client.keep(&url("http://a:1/x"), "two=2");
        let head = |client: &Client, text: &str| {
            let head = client.head(&Request::new("GET", text), &url(text));
            String::from_utf8(head).unwrap().lines().find(|line| line.starts_with("cookie")).map(str::to_owned)
        };
        assert_eq!(head(&client, "http://a:2/x/y").as_deref(), Some("cookie: one=1; two=2"));
        assert_eq!(head(&client, "http://a:1/xy").as_deref(), Some("cookie: two=2"));
        assert_eq!(head(&client, "http://b:1/x"), None);
        client.keep(&url("http://a:1/"), "two=; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(head(&client, "http://a:1/xy"), None);
    }

    #[test]
    fn bodies_end_where_their_heads_say() {
        let read = |text: &str| {
            let mut reader = io::Cursor::new(text.as_bytes());
            let answer = read_head(&url("http://a/b/c"), &mut reader).unwrap();
            let body = read_body(&answer, &mut reader).unwrap();
            (answer, String::from_utf8(body).unwrap())
        };
        let (answer, body) = read(
            "HTTP/1.1 302 Found\r\nLocation: ../d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        );
        assert_eq!((answer.status, body.as_str()), (302, "abc"));
        assert_eq!(answer.redirect().unwrap().as_str(), "http://a/d");
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc").1, "ab");
        assert_eq!(read("HTTP/1.0 200 OK\r\n\r\nabc").1, "abc");
    }
}
