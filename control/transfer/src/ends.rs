//! The two ends of a transfer, as its user knows them.

/// What names the UDP ports of the end that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortsOption {
    /// `--remote-ports` of the command that has started a far end.
    RemotePorts,
    /// `--ports` of the command, or of the node, that has asked for the transfer.
    Ports,
    /// `--ports` of the node that was asked.
    PortsOfNode,
}

/// The two ends of a transfer, as its user knows them.
#[derive(Clone, Debug)]
pub struct Ends {
    /// What this host is called.
    pub here: String,
    /// What names the receiver's ports.
    pub option: PortsOption,
    /// What names the sender's ports.
    pub senders_option: PortsOption,
}
