//! Examples of the man pages: what for, and what is typed.

/// Examples of a page.
type Examples = &'static [(&'static str, &'static str)];

/// The examples of a command's page, by the page's name.
pub fn of(name: &str) -> Examples {
    ALL.iter().find(|(of, _)| *of == name).map_or(&[], |(_, examples)| examples)
}

/// All of them.
pub const ALL: &[(&str, Examples)] = &[
    (
        "culvert",
        &[
            ("See it work", "culvert demo"),
            (
                "Send a directory, with nothing but ssh at the other end",
                "culvert send ./run-42 you@dtn.example.org:/data/incoming",
            ),
            ("Find out what keeps this host from full speed", "culvert doctor"),
        ],
    ),
    (
        "culvert-send",
        &[
            ("Send a directory over ssh", "culvert send ./run-42 you@dtn.example.org:/data/incoming"),
            ("Send the contents of a directory to a partner", "culvert send ./run-42/ lab-b:/data/incoming/run-42"),
            (
                "Limit the rate to 10 Gb/s, and yield to other traffic",
                "culvert send --rate 10G --mode background ./run-42 lab-b:/data/incoming",
            ),
            (
                "Through a firewall that has UDP and TCP 7300 to 7303 open",
                "culvert send --remote-ports 7300-7303 ./run-42 you@dtn.example.org:/data",
            ),
        ],
    ),
    (
        "culvert-get",
        &[
            ("Fetch a directory over ssh", "culvert get you@dtn.example.org:/data/results ."),
            ("Fetch what is new or has changed", "culvert get --overwrite changed lab-b:/data/results/ ./results"),
        ],
    ),
    (
        "culvert-node",
        &[
            ("Serve partners", "culvert node"),
            ("Run two lanes on cores of the NIC's NUMA node", "culvert node --cores 8,9"),
        ],
    ),
    (
        "culvert-identity",
        &[
            ("Show this node's key, and its fingerprint in digits and words", "culvert identity"),
            ("Create the key", "culvert identity init"),
            ("Show the key of the system's node, if you are not root", "sudo -u culvert culvert identity"),
        ],
    ),
    (
        "culvert-profile",
        &[
            ("List keys that are waiting for approval", "culvert profile pending"),
            ("Check that both nodes know each other", "culvert profile verify lab-b"),
        ],
    ),
    (
        "culvert-profile-add",
        &[(
            "Add a partner under a name, and let it store files",
            "culvert profile add lab-b --key 4f2a… --address dtn.lab-b.org --permit /data/incoming:write",
        )],
    ),
    (
        "culvert-profile-edit",
        &[
            ("Accept a partner's new key", "culvert profile edit lab-b --key 4f2a…"),
            ("Revoke a permission", "culvert profile edit lab-b --forbid /data/incoming"),
        ],
    ),
    (
        "culvert-profile-approve",
        &[(
            "Approve a key by a unique prefix of its fingerprint",
            "culvert profile approve nUr --name lab-c --permit /data/outgoing:read",
        )],
    ),
    (
        "culvert-profile-invite",
        &[(
            "Print the command for the partner's admin to run",
            "culvert profile invite --name lab-a --address dtn.lab-a.org",
        )],
    ),
    (
        "culvert-profile-verify",
        &[("Compare the key, and check that the partner knows this node", "culvert profile verify lab-b")],
    ),
    (
        "culvert-transfer",
        &[
            ("Submit a transfer to the node", "culvert transfer submit /data/run-42 lab-b:/data/incoming"),
            ("List running transfers", "culvert transfer list --active"),
        ],
    ),
    (
        "culvert-transfer-submit",
        &[
            ("Send", "culvert transfer submit /data/run-42 lab-b:/data/incoming"),
            ("Fetch", "culvert transfer submit --get lab-b:/data/results/ /data/results"),
        ],
    ),
    (
        "culvert-path-check",
        &[
            ("Report on the path to a partner", "culvert path check lab-b"),
            (
                "Detect loss of one packet in a million",
                "culvert path check lab-b --seconds 300 --packets-per-second 10000",
            ),
        ],
    ),
    (
        "culvert-capture",
        &[
            ("Capture a thousand packets for Wireshark", "culvert capture --packets 1000 lanes.pcap"),
            (
                "Dissect packets as they arrive",
                "culvert capture - | tshark -X lua_script:/usr/share/doc/culvert/culvert.lua -r -",
            ),
        ],
    ),
    (
        "culvert-login",
        &[
            ("Be let in by somebody who has a browser", "culvert login https://portal.example.org"),
            (
                "Only read, for a week, at a portal whose certificate comes from a CA of one's own",
                "culvert login portal.example.org --scope transfers:read --days 7 --ca-file ca.pem",
            ),
            ("By a password, where no browser is at hand", "culvert login portal.example.org --account ada"),
            ("Use a token that was made elsewhere", "culvert login portal.example.org --token-file token"),
            ("Let commands use another portal again", "culvert login --switch portal.example.org"),
        ],
    ),
    ("culvert-logout", &[("Revoke the token, and forget it here", "culvert logout")]),
    ("culvert-whoami", &[("Show account, roles, token and its end", "culvert whoami")]),
    (
        "culvert-token",
        &[
            ("Show your tokens, wherever they are used", "culvert token list"),
            (
                "Make a token for a program, and keep its secret in a file",
                "culvert token create inventory --scope people:read --days 30 --output inventory.token",
            ),
        ],
    ),
    (
        "culvert-portal",
        &[
            ("Serve on this host, with nothing configured", "culvert portal"),
            ("Show everything that it can be told", "culvert portal --help"),
            ("Make an account on the portal's host", "culvert portal users create boole --role user"),
            ("Prove that nobody has changed the audit trail", "culvert portal audit verify"),
        ],
    ),
    ("culvert-status", &[("Show the node, its lanes and its transfers", "culvert status")]),
    ("culvert-config-show", &[("Show every setting and where it comes from", "culvert config show --origin")]),
    (
        "culvert-completion",
        &[(
            "Install completion for bash",
            "culvert completion bash > ~/.local/share/bash-completion/completions/culvert",
        )],
    ),
    (
        "culvert-tune",
        &[
            ("Show what would be changed", "culvert tune plan"),
            ("Apply the changes, and keep them if this host can still be reached", "culvert tune apply"),
            ("Go back", "culvert tune rollback"),
        ],
    ),
];
