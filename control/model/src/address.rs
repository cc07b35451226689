//! Addresses of nodes as users write them, `host:port`, and the default port.

/// The TCP port of a node unless another is set; its lanes' UDP ports follow it.
pub const DEFAULT_PORT: u16 = 7_272;

/// `host:port`, or `[v6]:port`.
#[must_use]
pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Splits `host:port` or `[v6]:port`.
#[must_use]
pub fn split_host_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split() {
        assert_eq!(split_host_port("host:7272"), Some(("host", 7272)));
        assert_eq!(split_host_port("[::1]:7272"), Some(("::1", 7272)));
        assert_eq!(split_host_port("host"), None);
        assert_eq!(split_host_port(":1"), None);
        assert_eq!(split_host_port("host:99999"), None);
    }
}
