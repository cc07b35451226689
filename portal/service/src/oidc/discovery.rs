//! A provider's description of itself (OpenID Connect Discovery 1.0).

use culvert_portal_model::providers::Provider;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use url::Url;

/// What a provider says of itself, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Metadata {
    /// What it calls itself.
    pub issuer: String,
    /// Where a browser begins.
    #[serde(deserialize_with = "url")]
    pub authorization_endpoint: Url,
    /// Where a code is redeemed.
    #[serde(deserialize_with = "url")]
    pub token_endpoint: Url,
    /// Where its keys are.
    #[serde(deserialize_with = "url")]
    pub jwks_uri: Url,
    /// Where more is told of somebody.
    #[serde(default, deserialize_with = "url_or_none")]
    pub userinfo_endpoint: Option<Url>,
    /// How this portal may show its secret; absent, only in a header.
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Whether it names itself when it sends a browser back (RFC 9207).
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

/// Where a provider's description is.
#[must_use]
pub fn address(provider: &Provider) -> String {
    format!("{}/.well-known/openid-configuration", provider.issuer.trim_end_matches('/'))
}

impl Metadata {
    /// Reads a description, which must be that of the provider.
    ///
    /// # Errors
    /// A sentence.
    pub fn read(bytes: &[u8], provider: &Provider) -> Result<Self, String> {
        let metadata: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("its description cannot be read: {error}"))?;
        if metadata.issuer != provider.issuer {
            let found: String = metadata.issuer.chars().take(200).collect();
            return Err(format!("it calls itself {found:?}, not {:?}", provider.issuer));
        }
        let required = [&metadata.authorization_endpoint, &metadata.token_endpoint, &metadata.jwks_uri];
        let plain = required.into_iter().chain(&metadata.userinfo_endpoint).find(|url| !is_permitted(url, provider));
        match plain {
            Some(url) => Err(format!("it names {url}, which is not https")),
            None => Ok(metadata),
        }
    }

    /// Whether the portal may show its secret in a header.
    #[must_use]
    pub fn takes_basic(&self) -> bool {
        let methods = self.token_endpoint_auth_methods_supported.as_ref();
        methods.is_none_or(|methods| methods.iter().any(|method| method == "client_secret_basic"))
    }
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    Url::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn url_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| Url::parse(&text)).transpose().map_err(D::Error::custom)
}

/// Whether an address may be used: with TLS, or inside.
fn is_permitted(url: &Url, provider: &Provider) -> bool {
    url.has_host() && (url.scheme() == "https" || (provider.inside && url.scheme() == "http"))
}
