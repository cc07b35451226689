//! perfsonar
