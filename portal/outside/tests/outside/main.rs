//! The portal's client of HTTP and its mailer, against servers of the tests and against a mail
//! server that others wrote.

mod aiosmtpd;
mod http;
mod mail;
mod servers;
mod tls;
