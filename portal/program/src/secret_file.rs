//! Secrets in files.
//!
//! A file that was made by `echo` ends with a line end, which is not part of the secret; everything
//! else is. Raw keys are read by their length, whatever byte they end with. A file that everybody
//! on the host may read holds no secret, whatever it is a secret of.

use std::path::Path;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use crate::access;

/// No secret is longer.
const BYTES_MAX: usize = 64 * 1024;

/// A secret of text: exactly one line end goes.
///
/// # Errors
/// If it cannot be read, is empty, or is no text.
pub fn text(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not text (UTF-8)", path.display()))?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        bail!("{} is empty", path.display());
    }
    if text.trim() != text {
        tracing::warn!(file = %path.display(), "the secret in this file begins or ends with blanks, which are part of it");
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// A raw key of exactly `N` bytes.
///
/// # Errors
/// If it cannot be read or has another length.
pub fn key<const N: usize>(path: &Path) -> anyhow::Result<Zeroizing<[u8; N]>> {
    let bytes = read(path)?;
    let key: [u8; N] = bytes.as_slice().try_into().map_err(|_| {
        anyhow::anyhow!("{} has {} bytes; a key has exactly {N}, without a line end", path.display(), bytes.len())
    })?;
    Ok(Zeroizing::new(key))
}

fn read(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    access::refuse_public(path)?;
    let bytes = std::fs::read(path).map_err(|error| access::denied(error, "read", path))?;
    if bytes.len() > BYTES_MAX {
        bail!("{} has more than {BYTES_MAX} bytes: it is no secret", path.display());
    }
    Ok(Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn one_line_end_goes_and_blanks_stay() {
        for (content, secret) in
            [("x", "x"), ("x\n", "x"), ("x\r\n", "x"), ("x \n", "x "), ("x\n\n", "x\n"), (" x", " x")]
        {
            assert_eq!(text(file(content.as_bytes()).path()).unwrap().as_str(), secret, "{content:?}");
        }
        assert!(text(file(b"\n").path()).is_err());
        assert!(text(file(b"\xff").path()).is_err());
    }

    #[test]
    fn a_raw_key_keeps_its_last_byte() {
        let mut bytes = [7; 32];
        bytes[31] = b'\n';
        assert_eq!(*key::<32>(file(&bytes).path()).unwrap(), bytes);
        let error = key::<32>(file(&[7; 33]).path()).unwrap_err().to_string();
        assert!(error.contains("33 bytes") && error.contains("exactly 32"), "{error}");
    }
}
