//! What the values of settings and requests may be. A check gives the reason against a value and
//! what is permitted instead; the caller adds which setting it was and where it came from.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use culvert_protocol::foreign_text::is_plain;

/// The longest path that the kernel opens, in bytes (`PATH_MAX` of limits.h, without its NUL).
pub const PATH_BYTES_MAX: usize = 4_095;
/// The longest name of a node, user or partner, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// The longest name in the domain name system, in bytes (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// Checks a path. Joined to another, an empty one would be the other, and alone the current
/// directory.
///
/// # Errors
/// The reason against it.
pub fn path(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() {
        return Err("the path is empty: write a path, or leave it out".to_owned());
    }
    if bytes.len() > PATH_BYTES_MAX {
        return Err(format!("a path of {} bytes is too long: write at most {PATH_BYTES_MAX} bytes", bytes.len()));
    }
    if bytes.contains(&0) {
        return Err(format!("the path '{}' has a NUL byte, which no path can have", path.display()));
    }
    Ok(())
}

/// Checks a name that others see.
///
/// # Errors
/// The reason against it.
pub fn name(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("the name is empty: write a name, or leave it out".to_owned());
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("a name of {} bytes is too long: write at most {NAME_BYTES_MAX} bytes", text.len()));
    }
    if text.chars().all(is_plain) {
        Ok(())
    } else {
        Err(format!("the name {text:?} has characters that are not visible: leave them out"))
    }
}

/// Checks a host: a name or an address, without a port.
///
/// # Errors
/// The reason against it.
pub fn host(text: &str) -> Result<(), String> {
    let is_of_name = |character: char| character.is_alphanumeric() || "-._".contains(character);
    let is_name = (1..=HOST_BYTES_MAX).contains(&text.len())
        && text.chars().all(is_of_name)
        && !text.starts_with(['-', '.'])
        && !text.contains("..");
    if is_name || text.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(format!("{text:?} is not a host: write a name or an IP address, without a port, such as dtn1.example.org"))
}

/// Checks an address to listen on: one of many hosts is no host's own.
///
/// # Errors
/// The reason against it.
pub fn local(address: IpAddr) -> Result<(), String> {
    if address.is_multicast() || matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
        return Err(format!("{address} is the address of many hosts: write one of this host's, or :: for all of them"));
    }
    Ok(())
}

/// Checks a number.
///
/// # Errors
/// The reason against it.
pub fn number<T: PartialOrd + Display + Copy>(number: T, permitted: RangeInclusive<T>) -> Result<(), String> {
    if permitted.contains(&number) {
        return Ok(());
    }
    Err(format!("{number} is out of range: write a number from {} to {}", permitted.start(), permitted.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_not_permitted() {
        for good in ["/var/lib/culvert", ".", "x"] {
            path(Path::new(good)).unwrap();
        }
        assert!(path(Path::new("")).unwrap_err().contains("is empty"));
        assert!(path(Path::new(&"x".repeat(4_096))).unwrap_err().contains("4095"));
        assert!(path(Path::new("/a\0b")).unwrap_err().contains("NUL"));
        for good in ["dtn1", "Büro 7", "a.example.org"] {
            name(good).unwrap();
        }
        for bad in ["", " ", "a\nb", "a\0", "\u{202e}x", &"x".repeat(256)] {
            name(bad).unwrap_err();
        }
        for good in ["dtn1.example.org", "localhost", "192.0.2.1", "2001:db8::1", "a_b"] {
            host(good).unwrap();
        }
        for bad in ["", "-x", ".x", "a..b", "a:1", "a b", "a/b", "a\0b", "[::1]", &"x".repeat(254)] {
            host(bad).unwrap_err();
        }
        for (address, is_local) in [("::", true), ("192.0.2.1", true), ("224.0.0.1", false), ("255.255.255.255", false)]
        {
            assert_eq!(local(address.parse().unwrap()).is_ok(), is_local, "{address}");
        }
        assert_eq!(number(3, 1..=3), Ok(()));
        assert!(number(0, 1..=3).unwrap_err().contains("from 1 to 3"));
    }
}
