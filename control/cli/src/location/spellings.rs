//! Spellings of locations: what each means, or the error that refuses it.

use crate::location::*;

/// What a spelling means.
enum Meaning {
    Local(&'static str),
    /// The name of a profile or of a host of ssh, and the path.
    Named(&'static str, &'static str),
    /// `user@host`, port, path.
    Ssh(&'static str, Option<u16>, &'static str),
    /// Host, port, path.
    Node(&'static str, u16, &'static str),
    /// A part of the error.
    Refused(&'static str),
}
use Meaning::{Local, Named, Node, Refused, Ssh};

const SPELLINGS: &[(&str, Meaning)] = &[
    // This host's.
    ("dir", Local("dir")),
    ("dir/", Local("dir/")),
    ("/data/a:b", Local("/data/a:b")),
    ("./a:b", Local("./a:b")),
    ("../a:b", Local("../a:b")),
    ("a/b:c", Local("a/b:c")),
    ("~/x", Local("~/x")),
    ("run[1]", Local("run[1]")),
    ("./[a]:b", Local("./[a]:b")),
    ("./[::1]", Local("./[::1]")),
    ("./::1", Local("./::1")),
    ("*.fits", Local("*.fits")),
    ("-", Local("-")),
    ("", Refused("a path is empty")),
    ("file:///data/x", Refused("write the path alone")),
    // By a name.
    ("lab:in/x", Named("lab", "in/x")),
    ("lab:/data/in", Named("lab", "/data/in")),
    ("lab:", Named("lab", "")),
    ("lab:~/x", Named("lab", "~/x")),
    ("lab://data", Named("lab", "//data")),
    ("lab:a:b", Named("lab", "a:b")),
    ("lab:/a:b", Named("lab", "/a:b")),
    ("lab:[::1]:x", Named("lab", "[::1]:x")),
    ("lab:/data/*.fits", Named("lab", "/data/*.fits")),
    ("dtn.lab-b.org:/x", Named("dtn.lab-b.org", "/x")),
    ("192.0.2.1:/x", Named("192.0.2.1", "/x")),
    ("lab:2222/x", Named("lab", "2222/x")),
    ("lab:./2222:x", Named("lab", "./2222:x")),
    ("lab:0:x", Named("lab", "0:x")),
    ("lab:65536:x", Named("lab", "65536:x")),
    ("lab:7272:/x", Refused("culvert://lab:7272/x for a node")),
    ("lab:12:30.log", Refused("for a path that starts with it write lab:./12:30.log")),
    (":x", Refused("names no partner before the colon")),
    ("-oProxyCommand=x:y", Refused("cannot be a partner's name")),
    ("my file: draft", Refused("has a space before its colon")),
    // With a user.
    ("u@h:/x:y", Ssh("u@h", None, "/x:y")),
    ("u@h:", Ssh("u@h", None, "")),
    ("u@h:x", Ssh("u@h", None, "x")),
    ("u@h::mod/x", Refused("write u@h:PATH, or u@h:./:mod/x")),
    ("lab::mod", Refused("a module of its daemon")),
    ("SSH://h/x", Ssh("h", None, "/x")),
    ("Culvert://h/x", Node("h", 7272, "/x")),
    ("HTTPS://h/x", Refused("does not speak https")),
    ("u@h:~", Ssh("u@h", None, "~")),
    ("u@h:~/x", Ssh("u@h", None, "~/x")),
    ("u@h:~v/x", Ssh("u@h", None, "~v/x")),
    ("u@h:./~x", Ssh("u@h", None, "./~x")),
    ("u@realm@h:x", Ssh("u@realm@h", None, "x")),
    ("u@h:/data/[ab]?.fits", Ssh("u@h", None, "/data/[ab]?.fits")),
    ("u@h:2222/x", Ssh("u@h", None, "2222/x")),
    ("u@h:./2222:/x", Ssh("u@h", None, "./2222:/x")),
    ("u@h:2222:/tmp/x", Refused("write ssh://u@h:2222/tmp/x or --ssh 'ssh -p 2222'")),
    ("u@h:2222:x", Refused("write ssh://u@h:2222/~/x or")),
    ("u@h:2222:~/x", Refused("write ssh://u@h:2222/~/x or")),
    ("u@h:2222:/x", Refused("for a path that starts with it write u@h:./2222:/x")),
    ("@h:/x", Refused("lacks a user or a host")),
    ("u@:/x", Refused("lacks a user or a host")),
    ("-u@h:/x", Refused("cannot be a partner's name")),
    // By an IPv6 address.
    ("u@[::1]:/x:y", Ssh("u@::1", None, "/x:y")),
    ("[2001:db8::1]:x", Ssh("2001:db8::1", None, "x")),
    ("u@[fe80::1%eth1]:", Ssh("u@fe80::1%eth1", None, "")),
    ("[::1]", Refused("write [::1]:PATH, or [::1]: for the home directory")),
    ("u@[::1]", Refused("write u@[::1]:PATH")),
    ("u@[h]:x", Refused("no IPv6 address in its brackets")),
    ("[a]:b", Refused("no IPv6 address in its brackets")),
    ("-u@[::1]:x", Refused("cannot be a partner's name")),
    ("@[::1]:x", Refused("lacks a user or a host")),
    ("u@[::1]:2222:/x", Refused("write ssh://u@[::1]:2222/x or")),
    ("::1", Refused("write [::1]:PATH")),
    ("::1:/x", Refused("write [::1]:/x")),
    ("u@2001:db8::1:/x", Refused("write u@[2001:db8::1]:/x")),
    ("u@fe80::1%eth1:x", Refused("write u@[fe80::1%eth1]:x")),
    ("2001:db8::1/x", Refused("write [2001:db8::1]:/x")),
    // ssh's addresses.
    ("ssh://u@h/x", Ssh("u@h", None, "/x")),
    ("ssh://h/x", Ssh("h", None, "/x")),
    ("ssh://u@h:2222/tmp/x", Ssh("u@h", Some(2222), "/tmp/x")),
    ("ssh://u@h:/x", Ssh("u@h", None, "/x")),
    ("ssh://u@h:2222", Ssh("u@h", Some(2222), "")),
    ("ssh://u@h:2222/~/x", Ssh("u@h", Some(2222), "~/x")),
    ("ssh://u@h/~v/x", Ssh("u@h", None, "~v/x")),
    ("ssh://u@h//x", Ssh("u@h", None, "//x")),
    ("ssh://[::1]:2222/x", Ssh("::1", Some(2222), "/x")),
    ("ssh://u@[fe80::1%eth1]/x", Ssh("u@fe80::1%eth1", None, "/x")),
    ("ssh://u@h/a%20b", Ssh("u@h", None, "/a%20b")),
    ("ssh://u:secret@h/x", Refused("has a password in it")),
    ("ssh://u@h:0/x", Refused("write ssh://USER@HOST:PORT/PATH")),
    ("ssh://u@h:99999/x", Refused("write ssh://USER@HOST:PORT/PATH")),
    ("ssh://u@h:ssh/x", Refused("write ssh://USER@HOST:PORT/PATH")),
    ("ssh://-oProxyCommand=x/y", Refused("write ssh://USER@HOST:PORT/PATH")),
    ("ssh://u@::1/x", Refused("with an IPv6 address in brackets")),
    ("ssh:///x", Refused("write ssh://USER@HOST:PORT/PATH")),
    ("ssh://u@/x", Refused("write ssh://USER@HOST:PORT/PATH")),
    ("scp://u@h/x", Refused("write ssh://u@h/x")),
    ("sftp://u@h/x", Refused("write ssh://u@h/x")),
    // Nodes' addresses.
    ("culvert://h/x", Node("h", DEFAULT_PORT, "/x")),
    ("culvert://h", Node("h", DEFAULT_PORT, "")),
    ("culvert://h/", Node("h", DEFAULT_PORT, "/")),
    ("culvert://h:/x", Node("h", DEFAULT_PORT, "/x")),
    ("culvert://h:99/x", Node("h", 99, "/x")),
    ("culvert://192.0.2.1:99/x", Node("192.0.2.1", 99, "/x")),
    ("culvert://[::1]:99/x", Node("::1", 99, "/x")),
    ("culvert://[::1]:99/", Node("::1", 99, "/")),
    ("culvert://[::1]:99", Node("::1", 99, "")),
    ("culvert://[::1]/x", Node("::1", DEFAULT_PORT, "/x")),
    ("culvert://[::1]", Node("::1", DEFAULT_PORT, "")),
    ("culvert://h/data/*.fits", Node("h", DEFAULT_PORT, "/data/*.fits")),
    ("culvert:///x", Refused("write culvert://HOST:PORT/PATH")),
    ("culvert://h:port/x", Refused("write culvert://HOST:PORT/PATH")),
    ("culvert://h:0/x", Refused("write culvert://HOST:PORT/PATH")),
    ("culvert://::1/x", Refused("with an IPv6 address in brackets")),
    ("culvert://[h]/x", Refused("with an IPv6 address in brackets")),
    ("culvert://u@h/x", Refused("names a user")),
    // Others'.
    ("rsync://h/x", Refused("does not speak rsync")),
    ("https://h/x", Refused("does not speak https")),
];

#[test]
fn each_spelling_has_one_meaning_or_is_refused() {
    let path = |path: &str| TypedPath(path.as_bytes().to_vec());
    for (text, meaning) in SPELLINGS {
        let expected = match *meaning {
            Local(local) => Location::Local(path(local)),
            Named(name, there) => Location::Profile { name: name.into(), path: path(there) },
            Ssh(name, port, there) => {
                Location::Ssh { host: SshHost { name: name.into(), port, is_bare_name: false }, path: path(there) }
            }
            Node(host, port, there) => Location::Address { host: host.into(), port, path: path(there) },
            Refused(sentence) => {
                let refusal = parse(OsStr::new(text)).expect_err(text);
                assert_eq!(refusal.exit_code, 2, "{text}");
                assert!(refusal.text.contains(sentence), "{text}: {}", refusal.text);
                continue;
            }
        };
        assert_eq!(parse(OsStr::new(text)).expect(text), expected, "{text}");
    }
}

/// A spelling suggested by an error message is not refused in its turn.
#[test]
fn what_refusals_propose_is_a_location_on_a_partner() {
    for text in [
        "u@h:2222:/tmp/x",
        "u@h:2222:x",
        "lab:12:30.log",
        "u@[::1]:2222:/x",
        "::1:/x",
        "u@2001:db8::1:/x",
        "scp://u@h/x",
    ] {
        let refusal = parse(OsStr::new(text)).expect_err(text).text;
        let written = refusal.split("write ").skip(1).filter_map(|proposal| proposal.split([' ', ',']).next());
        let proposals: Vec<&str> = written.filter(|proposal| *proposal != "./").collect();
        assert!(!proposals.is_empty(), "{refusal}");
        for proposal in proposals {
            let location = parse(OsStr::new(proposal));
            assert!(
                matches!(location, Ok(ref location) if !matches!(location, Location::Local(_))),
                "{text}: {proposal}: {location:?}"
            );
        }
    }
}

#[test]
fn a_name_without_a_profile_is_a_host_of_ssh_and_other_locations_stay_the_same() {
    let over_ssh = |text: &str| parse(OsStr::new(text)).unwrap().or_over_ssh(|name| name == "lab");
    assert!(matches!(over_ssh("lab:x"), Location::Profile { .. }));
    let Location::Ssh { host, path } = over_ssh("host:x") else { panic!("it is not one of ssh's") };
    assert!(host.is_bare_name && host.to_string() == "host" && path.0 == b"x");
    for text in ["u@h:x", "culvert://h/x", "./host:x"] {
        assert_eq!(over_ssh(text), parse(OsStr::new(text)).unwrap());
    }
}

#[test]
fn locations_on_one_partner_have_the_same_partner() {
    let partner = |text: &str| parse(OsStr::new(text)).unwrap().partner();
    assert_eq!(partner("culvert://[::1]/x").as_deref(), Some("culvert://[::1]:7272"));
    assert_eq!(partner("ssh://u@h/x"), partner("u@h:y"));
    assert_ne!(partner("ssh://u@h:2222/x"), partner("u@h:y"));
}
