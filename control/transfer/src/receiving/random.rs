//! Random bits from the operating system.

/// Random bits for flow ids and pings, from the operating system.
pub(super) fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    u32::from_be_bytes(bytes)
}
