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
            ("Send the contents of one to a partner", "culvert send ./run-42/ lab-b:/data/incoming/run-42"),
            (
                "At no more than 10 Gb/s, yielding to others",
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
            ("Fetch what has changed", "culvert get --overwrite changed lab-b:/data/results/ ./results"),
        ],
    ),
    (
        "culvert-node",
        &[
            ("Answer partners", "culvert node"),
            ("With two lanes on cores of the NIC's NUMA node", "culvert node --cores 8,9"),
        ],
    ),
    (
        "culvert-identity",
        &[
            ("Show this node's key, fingerprint, and that in words", "culvert identity"),
            ("Make the key", "culvert identity init"),
            ("The system's node's, as another account than root", "sudo -u culvert culvert identity"),
        ],
    ),
    (
        "culvert-profile",
        &[
            ("Who asked, and who may come in", "culvert profile pending"),
            ("Whether both nodes know each other", "culvert profile verify lab-b"),
        ],
    ),
    (
        "culvert-profile-add",
        &[(
            "Let a partner store, and be reached by name",
            "culvert profile add lab-b --key 4f2a… --address dtn.lab-b.org --permit /data/incoming:write",
        )],
    ),
    (
        "culvert-profile-edit",
        &[
            ("Take a partner's new key", "culvert profile edit lab-b --key 4f2a…"),
            ("Take a permission back", "culvert profile edit lab-b --forbid /data/incoming"),
        ],
    ),
    (
        "culvert-profile-approve",
        &[(
            "Approve by as much of the fingerprint as is unique",
            "culvert profile approve nUr --name lab-c --permit /data/outgoing:read",
        )],
    ),
    (
        "culvert-profile-invite",
        &[(
            "Print the line that the partner's admin types",
            "culvert profile invite --name lab-a --address dtn.lab-a.org",
        )],
    ),
    (
        "culvert-profile-verify",
        &[("Compare the key, and ask whether the partner knows this node", "culvert profile verify lab-b")],
    ),
    (
        "culvert-transfer",
        &[
            ("Give a transfer to the node", "culvert transfer submit /data/run-42 lab-b:/data/incoming"),
            ("What is under way", "culvert transfer list --active"),
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
            ("A page on the path to a partner", "culvert path check lab-b"),
            (
                "See loss of one packet in a million",
                "culvert path check lab-b --seconds 300 --packets-per-second 10000",
            ),
        ],
    ),
    (
        "culvert-capture",
        &[
            ("A thousand packets for Wireshark", "culvert capture --packets 1000 lanes.pcap"),
            (
                "Dissect them as they come",
                "culvert capture - | tshark -X lua_script:/usr/share/doc/culvert/culvert.lua -r -",
            ),
        ],
    ),
    ("culvert-status", &[("The node, its lanes and its transfers", "culvert status")]),
    ("culvert-config-show", &[("Every setting, and where it comes from", "culvert config show --origin")]),
    (
        "culvert-completion",
        &[(
            "Complete commands in this bash",
            "culvert completion bash > ~/.local/share/bash-completion/completions/culvert",
        )],
    ),
    (
        "culvert-tune",
        &[
            ("What would be changed", "culvert tune plan"),
            ("Change it, and keep it if this host can still be reached", "culvert tune apply"),
            ("Go back", "culvert tune rollback"),
        ],
    ),
];
