//! The data plane as the control process sees it: started, listened to, and noticed when it dies.
//!
//! It is a child of this process, or, where an admin gave it an account and rights of its own, a
//! process that somebody else (systemd) starts for each connection to a socket ([`Origin`]).
//!
//! A [`DataPlane`] stands for one life of the data plane process. When that ends, by order or not,
//! [`DataPlane::died`] resolves, every transfer that used it ends with a temporary error, and
//! [`Supervisor::get`] starts the next.

mod error;
mod events;
mod followed;
mod life;
pub mod placement;
pub mod ports;
mod process;
mod slots;
mod supervisor;

pub use crate::dataplane::error::DataPlaneError;
pub use crate::dataplane::events::{EventReceiver, EventSender, ReceiveEvent, SendEvent, Tagged, event_queue};
pub use crate::dataplane::life::DataPlane;
pub use crate::dataplane::life::files::InstalledFile;
pub use crate::dataplane::process::Origin;
pub use crate::dataplane::slots::WantedFlow;
pub use crate::dataplane::supervisor::Supervisor;
