//! The proxy does to connections what networks do, here to those of PostgreSQL.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use culvert_portal_tests::postgres::{Postgres, through};
use culvert_portal_tests::tcp_proxy::{Reaction, TcpProxy, Way};

use crate::until;

/// A delay that is no coincidence.
const LATE: Duration = Duration::from_millis(300);

/// A server that sends back what it gets, and a client of it through a proxy.
fn echoing() -> (TcpProxy, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = TcpProxy::start(listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
            // The client may go at any time.
            thread::spawn(move || std::io::copy(&mut from, &mut to).map(drop));
        }
    });
    let client = connect(&proxy);
    (proxy, client)
}

fn connect(proxy: &TcpProxy) -> TcpStream {
    let client = TcpStream::connect(proxy.address()).unwrap();
    client.set_read_timeout(Some(LATE)).unwrap();
    client
}

fn says(client: &mut TcpStream, text: &str) -> std::io::Result<String> {
    client.write_all(text.as_bytes())?;
    hears(client, text.len())
}

fn hears(client: &mut TcpStream, bytes: usize) -> std::io::Result<String> {
    let mut buffer = vec![0; bytes];
    client.read_exact(&mut buffer)?;
    Ok(String::from_utf8(buffer).unwrap())
}

#[test]
fn a_black_hole_keeps_what_is_sent_until_traffic_resumes() {
    let (proxy, mut client) = echoing();
    assert_eq!(says(&mut client, "before").unwrap(), "before");
    for way in [Way::ToServer, Way::ToClient, Way::Both] {
        proxy.black_hole(way);
        let silence = says(&mut client, "within").unwrap_err();
        assert!(matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
        // Who connects now is not heard either.
        assert!(says(&mut connect(&proxy), "new").is_err());
        proxy.resume();
        client.set_read_timeout(Some(crate::PATIENCE)).unwrap();
        assert_eq!(hears(&mut client, 6).unwrap(), "within");
        client.set_read_timeout(Some(LATE)).unwrap();
    }
}

#[test]
fn connections_are_cut_refused_and_taken_again_at_the_same_address() {
    let (proxy, mut client) = echoing();
    says(&mut client, "before").unwrap();
    assert_eq!(proxy.connections(), 1);
    proxy.refuse();
    assert_eq!(TcpStream::connect(proxy.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(says(&mut client, "still").unwrap(), "still");
    proxy.cut();
    assert_eq!(proxy.connections(), 0);
    let gone = says(&mut client, "after").unwrap_err();
    assert!(!matches!(gone.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{gone}");
    proxy.resume();
    assert_eq!(says(&mut connect(&proxy), "again").unwrap(), "again");
    until("the connection that was closed is forgotten", || proxy.connections() == 0);
}

#[test]
fn each_direction_has_its_delay() {
    let (proxy, mut client) = echoing();
    client.set_read_timeout(Some(crate::PATIENCE)).unwrap();
    says(&mut client, "connected").unwrap();
    for (ways, least) in [(&[Way::ToServer][..], LATE), (&[Way::ToClient], LATE), (&[Way::Both], 2 * LATE)] {
        proxy.resume();
        ways.iter().for_each(|&way| proxy.delay(way, LATE));
        let began = Instant::now();
        says(&mut client, "late").unwrap();
        assert!(began.elapsed() >= least, "{ways:?}: {:?}", began.elapsed());
    }
}

#[test]
fn a_commit_is_delayed_lost_or_carried_out_unheard() {
    let Some(postgres) = Postgres::shared() else { return };
    let database = postgres.new_database();
    postgres.psql_in(&database, "create table t (n int)");
    let proxy = TcpProxy::start(postgres.address());
    let url = through(&database, proxy.address());
    let insert = |n: u32| postgres.try_psql(&url, &format!("begin; insert into t values ({n}); COMMIT"));
    let rows = || postgres.psql_in(&database, "select coalesce(string_agg(n::text, ',' order by n), '') from t");

    let began = Instant::now();
    proxy.when_seen(b"COMMIT", Reaction::Delay(LATE));
    assert_eq!(insert(1).code, 0);
    assert!(began.elapsed() >= LATE);
    assert_eq!((proxy.seen(), rows().as_str()), (1, "1"));

    proxy.resume();
    proxy.when_seen(b"COMMIT", Reaction::CutBefore);
    assert_ne!(insert(2).code, 0);
    assert_eq!(rows(), "1");

    proxy.resume();
    proxy.when_seen(b"COMMIT", Reaction::CutAfter);
    assert_ne!(insert(3).code, 0);
    until("the server has carried it out", || rows() == "1,3");
    assert_eq!(proxy.seen(), 3);
}
