//! Errors of profiles and pending keys.

use std::path::PathBuf;

use culvert_model::profile::Profile;
use culvert_protocol::control::RefusalCode;
use culvert_state::StateError;

/// Why a profile cannot be used, added or changed.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Its file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The name is invalid.
    #[error(
        "'{0}' is not a valid profile name: use at most 64 letters, digits, '-', '_' and '.', \
         starting with a letter or digit"
    )]
    BadName(String),
    /// There is no such profile.
    #[error("there is no profile '{name}': 'culvert profile list' lists all, 'culvert profile add' creates one{hint}")]
    NotFound {
        /// The name that was asked for.
        name: String,
        /// Where the system's node has its profiles, if that is elsewhere.
        hint: String,
    },
    /// It exists already.
    #[error("the profile '{0}' already exists; 'culvert profile edit {0}' changes it")]
    Exists(String),
    /// Another profile has the key.
    #[error("the profile '{0}' already has this key")]
    KeyTaken(String),
    /// A permitted directory that is not absolute.
    #[error("'{0}' cannot be permitted: write an absolute path")]
    RelativeRoot(PathBuf),
    /// No pending key has that fingerprint.
    #[error("no pending key has a fingerprint that starts with '{0}'; 'culvert profile pending' lists all")]
    NotPending(String),
    /// Several pending keys match.
    #[error("more than one pending key has a fingerprint that starts with '{beginning}': {}; give \
        more of it", found.join(", "))]
    Ambiguous {
        /// The given prefix.
        beginning: String,
        /// Fingerprints that start with it.
        found: Vec<String>,
    },
    /// The directory to forbid is not permitted.
    #[error("'{path}' is not permitted to '{name}' and cannot be forbidden; {}", permitted(.profile))]
    NotPermitted {
        /// The directory.
        path: PathBuf,
        /// The profile's name.
        name: String,
        /// The profile.
        profile: Box<Profile>,
    },
}

impl ProfileError {
    /// The code with which a transfer ends because of it.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::State(error) => error.code(),
            Self::NotFound { .. } | Self::NotPending(_) | Self::NotPermitted { .. } => RefusalCode::NotFound,
            Self::Ambiguous { .. } | Self::BadName(_) | Self::Exists(_) | Self::KeyTaken(_) | Self::RelativeRoot(_) => {
                RefusalCode::Failed
            }
        }
    }
}

fn permitted(profile: &Profile) -> String {
    let paths: Vec<String> = profile.permit.iter().map(|root| root.path.display().to_string()).collect();
    if paths.is_empty() { "nothing is permitted".to_owned() } else { format!("permitted: {}", paths.join(", ")) }
}
